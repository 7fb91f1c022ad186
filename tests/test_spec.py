"""YAML files: what they may hold, and how each mistake is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigError
from serve.spec import CONFIGS, DEFAULT_MODEL, Limits, Model, find, load, load_all


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


FULL = """\
model: org/name
revision: abc
names: [one, two]
llm: true
score: cosine
sha256: {model.safetensors: 00}
request: {max_tokens_per_doc: 5}
vllm: {max_model_len: 7, hf-overrides: {a: [1]}, enforce-eager: true}
env: {A: 1, B: x}
cpu: {vllm: {dtype: float32}, env: {C: 2.5}}
hardware: {gpu_memory_gib: 15}
limits: {passages: 3, timeout_s: 2}
"""


def test_every_key_is_read(tmp_path: Path):
    model = load(write(tmp_path, FULL.replace("00", "'00'")))
    assert model.names == ("one", "two")
    assert (model.name, model.llm, model.score, model.revision) == ("one", True, "cosine", "abc")
    assert model.sha256 == {"model.safetensors": "00"}
    assert model.request == {"max_tokens_per_doc": 5}
    assert model.vllm == {"max-model-len": 7, "hf-overrides": {"a": [1]}, "enforce-eager": True}
    assert model.max_model_len == 7
    assert model.env == {"A": 1, "B": "x"}
    assert (model.cpu.vllm, model.cpu.env) == ({"dtype": "float32"}, {"C": 2.5})
    assert model.hardware.gpu_memory_gib == 15.0
    assert (model.limits.passages, model.limits.timeout_s) == (3, 2.0)
    assert model.limits.body_bytes == Limits().body_bytes


def test_defaults(tmp_path: Path):
    model = load(write(tmp_path, "model: org/name\n", "short.yaml"))
    assert model.names == ("short", "org/name")
    assert model == Model(model="org/name", names=("short", "org/name"))
    assert model.request == {"truncate_prompt_tokens": -1}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("model: a/b\nscroe: logit\n", 2, "unknown key 'scroe' (nearest: 'score')"),
        ("model: a/b\nlimits:\n  passage: 3\n", 3, "unknown key 'limits.passage' (nearest: 'passa"),
        ("model: a/b\nlimits: {passages: '3'}\n", 2, "limits.passages: must be a whole number"),
        ("model: a/b\nlimits: {passages: 0}\n", 2, "limits.passages: must be at least 1"),
        ("model: a/b\nlimits: {timeout_s: soon}\n", 2, "limits.timeout_s: must be a number"),
        ("model: a/b\nlimits: {timeout_s: .nan}\n", 2, "limits.timeout_s: must be at least 0.001"),
        ("model: a/b\nlimits: {timeout_s: .inf}\n", 2, "limits.timeout_s: must be at least 0.001"),
        ("model: a/b\nscore: probability\n", 2, "score: must be one of logit, cosine"),
        ("model: a/b\nllm: 'yes'\n", 2, "llm: must be true or false"),
        ("model: 3\n", 1, "model: must be a string"),
        ("names: [x]\n", 1, "model: is missing"),
        ("model: a/b\nmodel: c/d\n", 2, "model: stands twice"),
        ("model: a/b\n\nnames: [x, X]\n", 3, "names: 'X' stands twice"),
        ("model: a/b\nnames: []\n", 2, "names: must be a list of strings"),
        ("model: a/b\nnames: x\n", 2, "names: must be a list of strings"),
        ("model: a/b\nnames: [x, 3]\n", 2, "names[1]: must be a string"),
        ("model: a/b\nvllm: 3\n", 2, "expected a mapping"),
        ("model: a/b\nvllm:\n  host: x\n", 3, "vllm.host: an engine listens on a private Unix"),
        ("model: a/b\nvllm: {served_model_name: x}\n", 2, "write `names:`"),
        ("model: a/b\ncpu: {vllm: {api-key: x}}\n", 2, "--api-key-file"),
        ("model: a/b\nvllm:\n  x: 1\n  chat-template: no.jinja\n", 4, "there is no file"),
        ("model: a/b\nenv: {A: [1]}\n", 2, "env.A: must be a string or a whole number"),
        ("model: [a\n", 2, "is not YAML"),
        ("model: a/b\nrequest: {truncate_prompt_token: -1}\n", 2, "nearest: 'truncate_prompt_to"),
        ("model: a/b\nvllm: {max_model_len: 5, max-model-len: 6}\n", 2, "stands twice"),
        ("model: a/b\nhardware: {memory_gib: -4}\n", 2, "must be at least 0"),
        ("- a\n", 1, "expected a mapping"),
        ("model: a/b\n? [x]\n: 1\n", 2, "a key must be a plain word"),
        ("model: a/b\nrevision: !!python/object:os.system x\n", 2, "cannot be read"),
    ],
)
def test_mistakes_name_the_file_the_line_and_the_remedy(
    tmp_path: Path, text: str, line: int, words: str
):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"# only a comment\n"])
def test_files_that_hold_nothing(tmp_path: Path, content: bytes):
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.yaml: (is empty|cannot be read)"):
        load(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        find(str(tmp_path / "none.yaml"))


def test_paths_are_relative_to_the_yaml(tmp_path: Path):
    write(tmp_path, "hello", "t.jinja")
    model = load(write(tmp_path, "model: ./weights\nvllm: {chat-template: t.jinja}\n"))
    assert model.model == str(tmp_path / "weights")
    assert model.vllm["chat-template"] == str(tmp_path / "t.jinja")
    assert model.is_local


@given(st.text(alphabet="abcdelmnorsv:[]{} \n-'\"#&*!|>%@0123", max_size=80))
def test_any_text_loads_or_is_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = write(tmp_path_factory.getbasetemp(), text, "any.yaml")
    try:
        assert isinstance(load(path), Model)
    except ConfigError as error:
        assert str(path) in str(error)


# -- MODEL= ------------------------------------------------------------------------------------


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
