"""Stacks: what their YAML may hold, and how each mistake is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve.errors import ConfigError
from serve.shelf import CONFIGS, is_stack
from serve.spec import Hardware, Model
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
  a: {gpu_memory: 0.25, cores: 1, replicas: 2}
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
    assert [model.replicas for model in stack.models] == [2, 1]


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
        ("models:\n  a: {replicas: 0}\n", 2, "models.a.replicas: must be at least 1"),
        (
            "models:\n  a: {}\n  b: {}\n  c: {replicas: 2, cascade: {first: a, then: b}}\n",
            4,
            "models.c: a cascade has `first`, `then` and `keep`, and no engine",
        ),
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


def test_one_model_is_a_stack_of_one():
    model = Model(model="org/a", names=("a",))
    assert Stack.of(model).on("gpu", []) == Stack([model], default="a", engines=[[model]])
    assert find("minilm").default == "minilm"
    assert find("bge-reranker-v2-gemma").llm == "bge-reranker-v2-gemma"


def test_the_shipped_stacks_can_be_used():
    for path in filter(is_stack, CONFIGS.glob("*.yaml")):
        assert find(path.stem).on("gpu", []).engines
        assert find(str(path)).on("cpu", [0, 1]).engines
    stack = find("rerank-server")
    assert (stack.default, stack.llm) == ("bge-reranker-v2-m3", "bge-reranker-v2-gemma")


def test_replicas_of_the_stack_go_over_the_models_own(configs: Path):
    (configs / "a.yaml").write_text(A + "replicas: 3\n")
    text = "models: {a: {}, few: {config: b.yaml, replicas: 2}}\n"
    stack = load(write(configs, text), configs).on("cpu", range(6))
    assert [model.replicas for model in stack.models] == [3, 2]
    assert [[engine.name for engine in replicas] for replicas in stack.engines] == [
        ["a", "a", "a"],
        ["few", "few"],
    ]
    overridden = load(write(configs, "models: {a: {replicas: 1}}\n"), configs)
    assert [model.replicas for model in overridden.models] == [1]


def test_a_stack_is_laid_out_as_often_as_one_likes(configs: Path):
    stack = load(write(configs, FULL), configs)
    for device in ("cpu", "gpu"):
        once = stack.on(device, range(4))
        assert once.on(device, range(4)) == once
        assert once.models == [model.on(device) for model in stack.models]


def test_what_replicas_need():
    hardware = Hardware(
        memory_gib=2, gpu_memory_gib=3, disk_gib=5, download_gb=7, compute_capability=8, cuda=13
    )
    a = Model(model="org/a", names=("a",), hardware=hardware, replicas=3)
    b = Model(model="org/b", names=("b",), hardware=replace(hardware, cuda=12.9))
    stack = Stack((a, b), default="a")
    assert stack.memory_gib == {"3 x a": 6, "b": 2}
    assert stack.needs == Hardware(
        memory_gib=8, gpu_memory_gib=12, disk_gib=10, download_gb=14, compute_capability=8, cuda=13
    )
    said = replace(stack, hardware=Hardware(gpu_memory_gib=4))
    assert said.needs.gpu_memory_gib == 4


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
