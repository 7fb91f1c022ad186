"""What only a GPU can show: the real model's published scores."""

import shutil
from pathlib import Path

import pytest

from clients.examples import EIGHT_PASSAGES, FOUR_PASSAGES, QUERY
from tests.harness import Server

# Published with a vLLM of February 2025, in float16.
PUBLISHED = {
    FOUR_PASSAGES: [0.99951171875, 3.737211227416992e-05, 0.17626953125, 3.737211227416992e-05],
    EIGHT_PASSAGES: [
        1.0,
        0.034942626953125,
        3.737211227416992e-05,
        0.425537109375,
        0.001674652099609375,
        5.7816505432128906e-05,
        0.0004711151123046875,
        0.00026535987854003906,
    ],
}
FLOAT16 = 5e-3


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_bge_reranker_base_gives_its_published_scores(tmp_path: Path):
    assert shutil.which("nvidia-smi")
    with Server("bge-reranker-base", tmp_path, vllm=None) as server:
        server.until_ready(1500)
        for passages, published in PUBLISHED.items():
            assert server.rerank(QUERY, passages) == pytest.approx(published, abs=FLOAT16)
