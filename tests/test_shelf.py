"""What `MODEL=…` means."""

from pathlib import Path

import pytest

from serve.errors import ConfigError
from serve.shelf import CONFIGS, DEFAULT_MODEL, find, load_all


def write(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("minilm", "minilm"),
        ("bge-reranker-base", "bge-reranker-base"),
        ("BAAI/bge-reranker-base", "bge-reranker-base"),
        ("baai/BGE-reranker-v2-m3", "bge-reranker-v2-m3"),
        (str(CONFIGS / "bge-reranker-v2-gemma.yaml"), "bge-reranker-v2-gemma"),
        ("some-org/some-model", "some-model"),
    ],
)
def test_find(wanted: str, name: str):
    assert find(wanted).name == name


def test_find_a_folder(tmp_path: Path):
    assert find(str(tmp_path)).model == str(tmp_path)


@pytest.mark.parametrize("wanted", ["bge-base", "nothing", "a/b/c", "./nowhere", ""])
def test_what_is_not_found_says_what_to_give(wanted: str):
    with pytest.raises(ConfigError, match="give a config's name"):
        find(wanted)


def test_the_nearest_config_is_named():
    with pytest.raises(ConfigError, match="nearest: 'bge-reranker-base'"):
        find("bge-reranker-bse")


def test_two_files_with_one_name(tmp_path: Path):
    write(tmp_path, "model: a/b\nnames: [x]\n", "one.yaml")
    write(tmp_path, "model: c/d\nnames:\n  - y\n  - X\n", "two.yaml")
    with pytest.raises(ConfigError, match=r"two\.yaml:4: 'X' is also a name of one\.yaml"):
        load_all(tmp_path)
    write(tmp_path, "model: c/d\n", "two.yaml")
    write(tmp_path, "model: e/f\nnames: [z, c/d]\n", "one.yaml")
    with pytest.raises(ConfigError, match=r"two\.yaml:1: 'c/d' is also a name of one\.yaml"):
        load_all(tmp_path)


def test_the_shipped_configs():
    models = load_all(CONFIGS)
    assert DEFAULT_MODEL in {path.stem for path in models}
    for path, model in models.items():
        assert path.stem == model.name
        assert model.max_model_len is not None
        assert model.is_local or len(model.revision or "") == 40
        # An LLM reranker's instruction stands at the prompt's end: no flag may cut the prompt.
        assert model.llm == ("chat-template" in model.vllm)
        assert model.llm == ("truncate_prompt_tokens" not in model.request)
