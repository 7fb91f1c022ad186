"""Servers that several test files share. Each is a real process; the real vLLM starts once each."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

from serve import shelf, weights
from tests.harness import KEY, Server, write_config
from tests.tiny_models import build_gemma, build_qwen3, build_xlm_roberta, tiny_config

VLLM_READY_S = 240

settings.register_profile("patient", deadline=None)  # no test is about time
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi") is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have measured: `record_property("measured", words)`."""
    for report in terminalreporter.getreports("passed"):
        for name, words in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"measured: {words}")


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The whole server over an engine that answers at once."""
    work = tmp_path_factory.mktemp("fake")
    limits = "limits: {passages: 100, text_chars: 2000, body_bytes: 20000, timeout_s: 1.5}\n"
    with Server(write_config(work, limits), work) as server:
        yield server.until_ready()


@pytest.fixture(scope="session")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same, with a key and without such limits."""
    work = tmp_path_factory.mktemp("keyed")
    with Server(write_config(work), work, env={"RERANK_API_KEY": KEY}) as server:
        yield server.until_ready()


@pytest.fixture(scope="session")
def minilm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded default on the real vLLM."""
    with Server("minilm", tmp_path_factory.mktemp("minilm"), vllm=None) as server:
        yield server.until_ready(VLLM_READY_S)


@pytest.fixture(scope="session")
def tiny_xlm_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small cross-encoder of bge-reranker's architecture and random weights."""
    return build_xlm_roberta(tmp_path_factory.mktemp("tiny") / "xlm-roberta")


@pytest.fixture(scope="session")
def xlm_roberta_server(
    tiny_xlm_roberta: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """That cross-encoder on the real vLLM."""
    work = tmp_path_factory.mktemp("xlm")
    config = work / "tiny.yaml"
    config.write_text(
        f"model: {tiny_xlm_roberta}\nnames: [tiny]\nscore: logit\ncache: 0\n"
        "vllm: {runner: pooling, max-model-len: 128, dtype: float32, enforce-eager: true}\n"
    )
    with Server(config, work, vllm=None) as server:
        yield server.until_ready(VLLM_READY_S)


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small LLM reranker of bge-reranker-v2-gemma's architecture."""
    return build_gemma(tmp_path_factory.mktemp("tiny") / "gemma")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small LLM reranker of Qwen3-Reranker-0.6B's architecture."""
    return build_qwen3(tmp_path_factory.mktemp("tiny") / "qwen3")


@pytest.fixture(scope="session")
def tokenizer_folders(
    tiny_xlm_roberta: Path, tiny_gemma: Path, tiny_qwen3: Path
) -> dict[str, Path]:
    """Folders with a `tokenizer.json` of each kind."""
    minilm = Path(weights.locate(shelf.find("minilm")))
    return {"xlm": tiny_xlm_roberta, "gemma": tiny_gemma, "qwen3": tiny_qwen3, "minilm": minilm}


@pytest.fixture(scope="session")
def stack_server(
    tiny_gemma: Path, tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Those two, the embedded model and a cascade behind one address, on the real vLLM."""
    work = tmp_path_factory.mktemp("stack")
    models = {
        "minilm": {},
        "gemma": {"config": str(tiny_config("bge-reranker-v2-gemma", tiny_gemma, work))},
        "qwen3": {"config": str(tiny_config("qwen3-reranker-0.6b", tiny_qwen3, work))},
        "minilm-then-gemma": {"cascade": {"first": "minilm", "then": "gemma", "keep": 3}},
    }
    path = work / "stack.yaml"
    path.write_text(yaml.safe_dump({"models": models, "llm": "gemma"}, sort_keys=False))
    with Server(path, work, vllm=None) as server:
        yield server.until_ready(VLLM_READY_S)
