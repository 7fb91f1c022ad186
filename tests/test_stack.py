"""Stacks: what their YAML may hold, how each mistake is told, how models share a machine."""

from pathlib import Path

import pytest

from serve.errors import ConfigError
from serve.shelf import CONFIGS, is_stack
from serve.spec import Model
from serve.stack import Cascade, Stack
from serve.stack_yaml import find, load

A = "model: org/a\nnames: [a, org/a]\nvllm: {dtype: float16}\ncpu: {env: {X: 1}}\n"
B = (
    "model: org/b\nnames: [b]\nllm: true\n"
    "request: {max_tokens_per_query: 1, max_tokens_per_doc: 1}\nvllm: {chat-template: '{{x}}'}\n"
)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yaml").write_text(B)
    return tmp_path


def write(configs: Path, text: str) -> Path:
    path = configs / "two.yaml"
    path.write_text(text)
    return path


FULL = """\
models:
  a: {gpu_memory: 0.25, cores: 1}
  judge: {config: ./b.yaml, gpu_memory: 0.65}
  both:
    cascade: {first: a, then: judge, keep: 7}
default: both
llm: judge
unknown_model: default
"""


def test_every_key_is_read(configs: Path):
    stack = load(write(configs, FULL), configs)
    assert [model.names for model in stack.models] == [("a", "org/a"), ("judge", "b")]
    assert (stack.default, stack.llm, stack.unknown_model) == ("both", "judge", "default")
    assert stack.cascades == {"both": Cascade("a", "judge", 7)}
    assert (stack.shares["a"].gpu_memory, stack.shares["a"].cores) == (0.25, 1)


def test_defaults(configs: Path):
    stack = load(write(configs, "models: {a: {}, b: {}}\n"), configs)
    assert (stack.default, stack.llm, stack.unknown_model) == ("a", "b", "refuse")
    assert Cascade("a", "b").keep == 20


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models: {}\n", 1, "models: names no model"),
        ("models: [a]\n", 1, "expected a mapping"),
        ("default: a\n", 1, "models: is missing"),
        ("models: {a: {}}\ndefalt: a\n", 2, "unknown key 'defalt' (nearest: 'default')"),
        ("models:\n  a: {}\n  aa: {}\n", 3, "models.aa: no model 'aa' (nearest: 'a')"),
        ("models: {a: {}}\ndefault: c\n", 2, "default: no model 'c' in this stack; it has: a"),
        ("models: {a: {}, b: {}}\nllm: bb\n", 2, "llm: no model 'bb' in this stack (nearest: 'b')"),
        ("models:\n  a: {}\n  x: {config: a}\n", 3, "models.x: 'a' is also a name of a"),
        ("models:\n  a: {}\n  x: {config: a.yaml}\n", 3, "give one of them a YAML of its own"),
        ("models:\n  a: {gpu_memory: 60}\n", 2, "models.a.gpu_memory: must be at most 1"),
        (
            "models:\n  a: {gpu_memory: 0.7}\n  b: {gpu_memory: 0.6}\n",
            2,
            "0.7 (a) + 0.6 (b) = 1.3, more than the GPU has",
        ),
        ("models:\n  a: {}\n  two: {}\n", 3, "a stack cannot hold a stack"),
        ("models:\n  ./a.yaml: {}\n", 2, "is no name"),
        ("models:\n  '': {}\n", 2, "is no name"),
        ("models:\n  a: {}\n  x: {cascade: a}\n", 3, "must be a mapping of first, then, keep"),
        ("models:\n  a: {}\n  x: {cascade: }\n", 3, "a cascade has `first`, `then` and `keep`"),
        (
            "models:\n  a: {}\n  b:\n  C: {cascade: {first: a, then: b}}\n"
            "  c: {cascade: {first: b, then: a}}\n",
            5,
            "models.c: 'c' is also a name of C",
        ),
        (
            "models:\n  a: {}\n  b: {}\n  c: {cascade: {first: a, then: b, keep: 10001}}\n",
            4,
            "keep: is more than b takes",
        ),
        ("models:\n  a: {gpu_memory: 0}\n", 2, "models.a.gpu_memory: must be at least 0.01"),
        ("models:\n  a: {cores: 0}\n", 2, "models.a.cores: must be at least 1"),
        ("models:\n  t: {config: two.yaml}\n", 2, "a stack cannot hold a stack"),
        ("models:\n  a: {}\n  c: {cascade: {first: a}}\n", 3, "models.c.cascade.then: is missing"),
        (
            "models:\n  a: {}\n  c: {cascade: {first: a, then: d}}\n",
            3,
            "models.c.cascade.then: no model 'd' in this stack",
        ),
        (
            "models:\n  a: {}\n  c: {cascade: {first: a, then: a}}\n",
            3,
            "`first` and `then` are the same model",
        ),
        (
            "models:\n  a: {}\n  b: {}\n  c: {cascade: {first: a, then: b, keep: 0}}\n",
            4,
            "models.c.cascade.keep: must be at least 1",
        ),
        (
            "models:\n  a: {}\n  b: {}\n  c: {cores: 1, cascade: {first: a, then: b}}\n",
            4,
            "models.c: a cascade has `first`, `then` and `keep`, and no engine",
        ),
        ("models: {a: {}}\nunknown_model: ignore\n", 2, "must be one of refuse, default"),
        (
            "models:\n  a: {}\n  b: {}\n  org/a: {cascade: {first: a, then: b}}\n",
            4,
            "models.org/a: 'org/a' is also a name of a",
        ),
    ],
)
def test_mistakes_name_the_file_the_line_and_the_remedy(
    configs: Path, text: str, line: int, words: str
):
    path = write(configs, text)
    with pytest.raises(ConfigError) as error:
        load(path, configs)
    assert str(error.value).startswith(f"{path}:{line}: "), error.value
    assert words in str(error.value)


def shares(configs: Path, a: str, b: str) -> Stack:
    return load(write(configs, f"models: {{a: {{{a}}}, b: {{{b}}}}}\n"), configs)


def test_memory_fractions_become_vllms_flag_on_a_gpu(configs: Path):
    first, second = shares(configs, "gpu_memory: 0.3", "gpu_memory: 0.7").on("gpu", []).models
    assert first.vllm == {"dtype": "float16", "gpu-memory-utilization": 0.3}
    assert second.vllm["gpu-memory-utilization"] == 0.7


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("gpu_memory: 0.5", "gpu_memory: 0.6", r"0\.5 \(a\) \+ 0\.6 \(b\) = 1\.1, more than the"),
        ("gpu_memory: 0.3", "", r"0\.3 \(a\) \+ 0\.92 \(b\) = 1\.22"),
        ("", "", r"0\.92 \(a\) \+ 0\.92 \(b\) = 1\.84"),
    ],
)
def test_memory_fractions_that_do_not_add_up(configs: Path, a: str, b: str, words: str):
    with pytest.raises(ConfigError, match=words):
        shares(configs, a, b).on("gpu", [])


def test_a_models_own_memory_flag_counts(configs: Path):
    (configs / "b.yaml").write_text(B.replace("vllm: {", "vllm: {gpu-memory-utilization: 0.4, "))
    assert shares(configs, "gpu_memory: 0.6", "").on("gpu", []).models
    with pytest.raises(ConfigError, match=r"0\.7 \(a\) \+ 0\.4 \(b\) = 1\.1"):
        shares(configs, "gpu_memory: 0.7", "").on("gpu", [])


def test_cores_are_dealt_out_on_a_cpu(configs: Path):
    first, second = shares(configs, "cores: 2", "cores: 1").on("cpu", [0, 1, 5, 7]).models
    assert first.env == {"X": 1, "VLLM_CPU_OMP_THREADS_BIND": "0,1"}
    assert second.env == {"VLLM_CPU_OMP_THREADS_BIND": "5"}
    assert "gpu-memory-utilization" not in first.vllm


def test_cores_that_there_are_not(configs: Path):
    words = r"cores: 2 \(a\) \+ 1 \(b\) = 3, more than this machine has \(2\)"
    with pytest.raises(ConfigError, match=words):
        shares(configs, "cores: 2", "cores: 1").on("cpu", [0, 1])


def test_without_shares_each_engine_may_use_every_core(configs: Path):
    first, second = shares(configs, "", "").on("cpu", [0, 1]).models
    assert first.env == {"X": 1}
    assert second.env == {}


def test_one_model_is_a_stack_of_one():
    model = Model(model="org/a", names=("a",))
    assert Stack.of(model).on("gpu", []) == Stack([model], default="a")
    assert find("minilm").default == "minilm"
    assert find("bge-reranker-v2-gemma").llm == "bge-reranker-v2-gemma"


def test_the_shipped_stacks_can_be_used():
    for path in filter(is_stack, CONFIGS.glob("*.yaml")):
        assert find(path.stem).on("gpu", []).models
        assert find(str(path)).on("cpu", [0, 1]).models
    stack = find("rerank-server")
    assert (stack.default, stack.llm) == ("bge-reranker-v2-m3", "bge-reranker-v2-gemma")


@pytest.mark.parametrize("a", ["gpu_memory: 0.3", ""])
def test_a_stack_of_one_has_its_share_too(configs: Path, a: str):
    stack = load(write(configs, f"models: {{a: {{{a}}}}}\n"), configs)
    flags = stack.on("gpu", []).models[0].vllm
    assert flags.get("gpu-memory-utilization") == (0.3 if a else None)


def test_models_on_gpus_of_their_own_do_not_share(configs: Path):
    (configs / "b.yaml").write_text(B + "env: {CUDA_VISIBLE_DEVICES: 1}\n")
    assert shares(configs, "", "").on("gpu", []).models
    assert shares(configs, "gpu_memory: 0.9", "gpu_memory: 0.9").on("gpu", []).models


def test_one_gpu_however_it_is_written_is_one(configs: Path):
    (configs / "a.yaml").write_text(A + "env: {CUDA_VISIBLE_DEVICES: '0'}\n")
    (configs / "b.yaml").write_text(B + "env: {CUDA_VISIBLE_DEVICES: '1, 0'}\n")
    with pytest.raises(ConfigError, match=r"0\.92 \(a\) \+ 0\.92 \(b\)"):
        shares(configs, "", "").on("gpu", [])


@pytest.mark.parametrize("share", ["high", "-3", "0", "1.5", "null"])
def test_a_memory_flag_that_is_no_fraction(configs: Path, share: str):
    text = B.replace("vllm: {", f"vllm: {{gpu-memory-utilization: {share}, ")
    (configs / "b.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"b: vllm\.gpu-memory-utilization: must be above 0"):
        shares(configs, "gpu_memory: 0.1", "").on("gpu", [])


def test_references_by_any_name(configs: Path):
    text = (
        "models:\n  a:\n  judge: {config: b}\n"
        "  Both: {cascade: {first: ORG/a, then: b}}\ndefault: both\nllm: B\n"
    )
    stack = load(write(configs, text), configs)
    assert (stack.default, stack.llm) == ("Both", "judge")
    assert stack.cascades == {"Both": Cascade("a", "judge")}


def test_a_stacks_name_has_no_case(configs: Path):
    (configs / "Two.yaml").write_text("models: {a: {}, b: {}}\n")
    assert [model.name for model in find("tWO", configs).models] == ["a", "b"]
