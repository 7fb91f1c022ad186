"""What only a GPU can show: the real models' scores, and two models that share its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from clients.examples import FOUR_PASSAGES, QUERY
from tests.harness import ROOT, Server

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]
START_S = 3000  # the downloads too


def test_bge_reranker_base_gives_its_published_scores(tmp_path: Path):
    with Server("bge-reranker-base", tmp_path, vllm=None) as server:
        server.until_ready(START_S)
        command = [sys.executable, "-m", "clients.verify", "bge-reranker-base", "--url", server.url]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("model", ["rerank-server", "qwen3-reranker-0.6b"])
def test_llm_rerankers_rank_the_example_rightly(tmp_path: Path, model: str):
    with Server(model, tmp_path, vllm=None) as server:
        server.until_ready(START_S)
        body = {"query": QUERY, "passages": list(FOUR_PASSAGES), "use_llm": True}
        scores = server.post("/rerank", body).json()
    assert max(scores) == scores[0] > 0.5 > max(scores[1], scores[3])
