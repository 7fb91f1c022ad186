"""YAML files: what they may hold, and how each mistake is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigError
from serve.rerank import Score
from serve.spec import Limits, Model, load


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
request: {max_tokens_per_query: 4, max_tokens_per_doc: 5}
vllm: {chat-template: '{{x}}', max_model_len: 10, hf-overrides: {a: [1]}, enforce-eager: true}
env: {A: 1, B: x}
cpu: {vllm: {dtype: float32}, env: {C: 2.5}}
hardware: {gpu_memory_gib: 15}
limits: {passages: 3, timeout_s: 2, bytes_in_flight: 9, stall_timeout_s: 0.5}
replicas: 3
"""


def test_every_key_is_read(tmp_path: Path):
    model = load(write(tmp_path, FULL.replace("00", "'00'")))
    assert model.names == ("one", "two")
    assert (model.name, model.llm, model.revision) == ("one", True, "abc")
    assert model.score == Score("cosine")
    assert model.sha256 == {"model.safetensors": "00"}
    assert model.request == {"max_tokens_per_query": 4, "max_tokens_per_doc": 5}
    assert model.template == "{{x}}"
    assert model.vllm == {
        "chat-template": "{{x}}",
        "max-model-len": 10,
        "hf-overrides": {"a": [1]},
        "enforce-eager": True,
    }
    assert model.max_model_len == 10
    assert model.env == {"A": 1, "B": "x"}
    assert (model.cpu.vllm, model.cpu.env) == ({"dtype": "float32"}, {"C": 2.5})
    assert model.hardware.gpu_memory_gib == 15.0
    assert (model.limits.passages, model.limits.timeout_s) == (3, 2.0)
    assert (model.limits.bytes_in_flight, model.limits.stall_timeout_s) == (9, 0.5)
    assert model.replicas == 3
    assert model.limits.body_bytes == Limits().body_bytes


def test_defaults(tmp_path: Path):
    model = load(write(tmp_path, "model: org/name\n", "short.yaml"))
    assert model.names == ("short", "org/name")
    assert model == Model(model="org/name", names=("short", "org/name"))
    assert model.request == {"truncate_prompt_tokens": -1}
    assert model.replicas == 1
    assert (model.limits.bytes_in_flight, model.limits.stall_timeout_s) == (2**28, 60.0)


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
        ("model: a/b\nlimits: {stall_timeout_s: 0}\n", 2, "limits.stall_timeout_s: must be at lea"),
        ("model: a/b\nlimits: {bytes_in_flight: 0}\n", 2, "limits.bytes_in_flight: must be at lea"),
        ("model: a/b\nreplicas: 0\n", 2, "replicas: must be at least 1"),
        ("model: a/b\nreplicas: 1.5\n", 2, "replicas: must be a whole number"),
        ("model: a/b\nreplicas: true\n", 2, "replicas: must be a whole number"),
        ("model: a/b\nreplica: 2\n", 2, "unknown key 'replica' (nearest: 'replicas')"),
        ("model: a/b\nscore: probability\n", 2, "score: must be one of logit, cosine"),
        ("model: a/b\nscore: {of: x}\n", 2, "score.of: must be one of logit, cosine"),
        ("model: a/b\nscore: [logit]\n", 2, "expected a mapping"),
        ("model: a/b\nscore: {temperature: 0}\n", 2, "score.temperature: must be at least 1e-06"),
        ("model: a/b\nscore: {temperature: -2}\n", 2, "score.temperature: must be at least"),
        ("model: a/b\nscore: {bias: .nan}\n", 2, "score.bias: must be at least"),
        ("model: a/b\nscore: {bias: much}\n", 2, "score.bias: must be a number"),
        ("model: a/b\nrequest: {padding: max_length}\n", 2, "request: padding would be read"),
        ("model: a/b\nrequest: {truncate_prompt_tokens: 0}\n", 2, "-1 (the model's length)"),
        ("model: a/b\nrequest: {truncate_prompt_tokens: null}\n", 2, "is null: leave it out"),
        ("model: a/b\nrequest: {max_tokens_per_doc: '9'}\n", 2, "a number in quotes"),
        ("model: a/b\nrequest: {truncation_side: left}\n", 2, "'request.truncation_side'"),
        ("model: a/b\nrequest: {chat_template_kwargs: {tools: 1}}\n", 2, "no variable of a"),
        ("model: a/b\nrequest: {max_tokens_per_doc: true}\n", 2, "must be a whole number"),
        ("model: a/b\nllm: true\n", 1, "needs max_tokens_per_query and max_tokens_per_doc"),
        (
            "model: a/b\nllm: true\nrequest: {max_tokens_per_query: 0, max_tokens_per_doc: 9}\n",
            3,
            "so that the instruction stays whole",
        ),
        (
            "model: a/b\nllm: true\nrequest: {truncate_prompt_tokens: -1}\n",
            3,
            "would cut the instruction",
        ),
        (
            "model: a/b\nllm: true\nvllm: {max-model-len: 9}\n"
            "request: {max_tokens_per_query: 4, max_tokens_per_doc: 5}\n",
            4,
            "= 9 leaves no room for the instruction in max-model-len (9)",
        ),
        (
            "model: a/b\nllm: true\nrequest: {max_tokens_per_query: 4, max_tokens_per_doc: 5}\n",
            2,
            "needs the prompt that it was trained with",
        ),
        ("model: a/b\nvllm: {chat-template: '{{x}}'}\n", 2, "write `llm: true`"),
        ("model: a/b\nnames: ['']\n", 2, "names: '' is no name"),
        ('model: a/b\nnames: ["a\\nb"]\n', 2, "is no name"),
        ("model: a/b\nscore: {bias: 1e308}\n", 2, "score.bias: must be"),
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
        load(tmp_path / "none.yaml")


LLM = "llm: true\nrequest: {max_tokens_per_query: 1, max_tokens_per_doc: 1}\n"


def test_paths_are_relative_to_the_yaml(tmp_path: Path):
    write(tmp_path, "hello", "t.jinja")
    model = load(write(tmp_path, LLM + "model: ./weights\nvllm: {chat-template: t.jinja}\n"))
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


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("logit", Score()),
        ("cosine", Score("cosine")),
        ("{of: cosine}", Score("cosine")),
        ("{temperature: 2}", Score("logit", 2.0)),
        ("{of: logit, temperature: 1.7, bias: -0.3}", Score("logit", 1.7, -0.3)),
    ],
)
def test_score(tmp_path: Path, text: str, score: Score):
    assert load(write(tmp_path, f"model: a/b\nscore: {text}\n")).score == score


def test_an_encoders_own_request_fields_stand_beside_the_default(tmp_path: Path):
    model = load(write(tmp_path, "model: a/b\nrequest: {max_tokens_per_doc: 5}\n"))
    assert model.request == {"truncate_prompt_tokens": -1, "max_tokens_per_doc": 5}


def test_a_device_is_laid_over_once(tmp_path: Path):
    text = "model: a/b\nvllm: {max-model-len: 9}\ncpu: {vllm: {max-model-len: 5}, env: {A: 1}}\n"
    model = load(write(tmp_path, text))
    assert (model.on("cpu").max_model_len, model.on("gpu").max_model_len) == (5, 9)
    assert model.on("cpu").on("cpu") == model.on("cpu")
    assert (model.on("cpu").env, model.on("gpu").env) == ({"A": 1}, {})
