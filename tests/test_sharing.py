"""How the engines of a stack share the cores, the GPUs and the memory of one machine."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve import machine
from serve.errors import ConfigError
from serve.sharing import BIND, MEMORY_FLAG, VISIBLE, VLLM_GPU_MEMORY, on_cpu, on_gpu
from serve.spec import Model
from tests.harness import ROOT, write_config


def model(name: str = "a", replicas: int = 1, gpus: object = None, **vllm: object) -> Model:
    flags = {key.replace("_", "-"): value for key, value in vllm.items()}
    env = {} if gpus is None else {VISIBLE: gpus}
    return Model(model="org/m", names=(name,), replicas=replicas, vllm=flags, env=env)


def bound(engines: Sequence[Sequence[Model]]) -> list[list[object]]:
    return [[engine.env.get(BIND) for engine in replicas] for replicas in engines]


def fractions(engines: Sequence[Sequence[Model]]) -> list[list[object]]:
    return [[engine.vllm.get(MEMORY_FLAG) for engine in replicas] for replicas in engines]


def visible(engines: Sequence[Sequence[Model]]) -> list[list[object]]:
    return [[engine.env.get(VISIBLE) for engine in replicas] for replicas in engines]


# A CPU's cores.


def test_cores_are_dealt_out():
    models = [model("a"), model("b", 2), model("c")]
    engines = on_cpu(models, {"a": 2, "b": 1}, [0, 1, 5, 7, 8])
    assert bound(engines) == [["0,1"], ["5", "7"], ["0,1,5,7,8"]]
    assert bound(on_cpu(models[2:], {}, [0, 1, 2, 3], [0, 2])) == [["0,2"]]


def test_cores_that_there_are_not():
    words = r"cores: 4 \(2 x a\) \+ 1 \(b\) = 5, more than this machine has \(4\)"
    with pytest.raises(ConfigError, match=words):
        on_cpu([model("a", 2), model("b")], {"a": 2, "b": 1}, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("replicas", "cores", "expected"),
    [
        (1, [0, 1], ["0,1"]),
        (2, [0, 1], ["0", "1"]),
        (2, [0, 1, 2, 3, 4], ["0,1", "2,3"]),
        (2, [3], ["3", "3"]),
        (3, [0, 1], ["0", "1", "0"]),
    ],
)
def test_replicas_divide_the_cores(replicas: int, cores: list[int], expected: list[object]):
    assert bound(on_cpu([model("a", replicas)], {}, cores)) == [expected]


def test_replicas_divide_what_nobody_has_of_their_own():
    models = [model("a", 2), model("b"), model("c", 2)]
    assert bound(on_cpu(models, {"b": 2}, range(6))) == [["2,3", "4,5"], ["0,1"], ["2,3", "4,5"]]
    assert bound(on_cpu(models, {"b": 2}, range(2))) == [["0", "1"], ["0,1"], ["0", "1"]]


def test_a_yaml_that_binds_its_engine_keeps_its_word():
    own = Model(model="org/m", names=("a",), replicas=2, env={BIND: "nobind"})
    assert bound(on_cpu([own], {}, [0, 1])) == [["nobind", "nobind"]]
    assert bound(on_cpu([own], {"a": 1}, [0, 1])) == [["0", "1"]]  # but for the stack's


@given(
    wanted=st.lists(st.tuples(st.integers(1, 5), st.none() | st.integers(1, 4)), min_size=1),
    cores=st.lists(st.integers(0, 300), min_size=1, max_size=40, unique=True),
)
def test_nobody_has_a_core_that_another_has_of_its_own(
    wanted: list[tuple[int, int | None]], cores: list[int]
):
    models = [model(f"m{index}", replicas) for index, (replicas, _) in enumerate(wanted)]
    counts = {f"m{i}": count for i, (_, count) in enumerate(wanted) if count is not None}
    total = sum(replicas * count for replicas, count in wanted if count is not None)
    if total > len(cores):
        with pytest.raises(ConfigError, match=f"= {total}, more than this machine"):
            on_cpu(models, counts, cores)
        return
    engines = on_cpu(models, counts, cores)
    assert [len(replicas) for replicas in engines] == [replicas for replicas, _ in wanted]
    owned: Counter[str] = Counter()
    for replicas, count in zip(engines, (count for _, count in wanted), strict=True):
        if count is None and len(replicas) == 1:
            assert str(replicas[0].env[BIND]).split(",") == list(map(str, cores))
            continue  # an only one may use all of them
        shares = [str(engine.env[BIND]).split(",") for engine in replicas]
        used = Counter(chain.from_iterable(shares))
        assert set(used) <= set(map(str, cores))
        assert len(set(map(len, shares))) <= 1  # replicas of a model compute alike
        if count is not None:
            assert set(map(len, shares)) == {count}
            owned += used
        elif shares and len(cores) - total >= len(replicas):
            assert max(used.values()) == 1
            assert len(cores) - total - len(used) < len(replicas)  # too few for one more each
    assert sum(owned.values()) == total == len(owned)
    for replicas, (_, count) in zip(engines, wanted, strict=True):
        if count is None and total < len(cores) and len(replicas) > 1:
            rest = [str(engine.env[BIND]).split(",") for engine in replicas]
            assert not set(chain.from_iterable(rest)) & set(owned)


def test_hardware_threads_of_one_core_are_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Two sockets of two cores with two threads each, numbered as Linux often does.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    for cpu in range(8):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{cpu % 2}\n")
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert machine.cores(tmp_path) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert machine.cores(tmp_path / "none") == list(range(8))
    assert machine.apart(tmp_path) == [0, 2, 1, 3]
    assert machine.apart(tmp_path / "none") == list(range(8))


def test_the_cores_of_this_machine():
    assert set(machine.cores()) == os.sched_getaffinity(0)


# GPUs.


def test_fractions_become_vllms_flag():
    models = [model("a", dtype="float16"), model("b")]
    engines = on_gpu(models, {"a": 0.3, "b": 0.7})
    assert fractions(engines) == [[0.3], [0.7]]
    assert engines[0][0].vllm["dtype"] == "float16"


def test_without_a_share_vllm_decides():
    assert on_gpu([model("a")], {}) == [[model("a")]]


@pytest.mark.parametrize(
    ("models", "given", "words"),
    [
        ([model("a"), model("b")], {"a": 0.5, "b": 0.6}, r"0\.5 \(a\) \+ 0\.6 \(b\) = 1\.1, more"),
        ([model("a"), model("b")], {"a": 0.3}, r"0\.3 \(a\) \+ 0\.92 \(b\) = 1\.22"),
        ([model("a"), model("b")], {}, r"0\.92 \(a\) \+ 0\.92 \(b\) = 1\.84"),
        ([model("a"), model("b", gpu_memory_utilization=0.4)], {"a": 0.7}, r"= 1\.1, more"),
        ([model("a", 3), model("b")], {"b": 0.2}, r"0\.92 \(a\) \+ 0\.2 \(b\) = 1\.12"),
        ([model("a", gpus="0"), model("b", gpus="1, 0")], {}, r"0\.92 \(a\) \+ 0\.92 \(b\)"),
        ([model("a", 2, gpus="0, 0")], {}, r"1\.84 \(a\) = 1\.84"),
        ([model("a", 2, gpus="0,1"), model("b", gpus=1)], {}, r"0\.92 \(a\) \+ 0\.92 \(b\)"),
        ([model("a", tensor_parallel_size=2), model("b", gpus=1)], {}, r"\(a\) \+ 0\.92 \(b\)"),
    ],
)
def test_fractions_that_do_not_add_up(models: list[Model], given: dict[str, float], words: str):
    with pytest.raises(ConfigError, match=words):
        on_gpu(models, given)


def test_fractions_that_do():
    assert on_gpu([model("a"), model("b", gpu_memory_utilization=0.4)], {"a": 0.6})
    assert on_gpu([model("a"), model("b", gpus=1)], {})
    assert on_gpu([model("a"), model("b", gpus=1)], {"a": 0.9, "b": 0.9})


@pytest.mark.parametrize("gpus", [None, "", 0, "3", "GPU-5f", " 1, "])
def test_replicas_share_one_gpu(gpus: object):
    engines = on_gpu([model("a", 4, gpus)], {"a": 0.8})
    assert fractions(engines) == [[0.2] * 4]
    assert visible(engines) == [[gpus] * 4]
    assert fractions(on_gpu([model("a", 2, gpus)], {})) == [[VLLM_GPU_MEMORY / 2] * 2]
    own = model("a", 2, gpus, gpu_memory_utilization=0.5)
    assert fractions(on_gpu([own], {})) == [[0.25, 0.25]]


def test_replicas_divide_the_gpus():
    assert visible(on_gpu([model("a", 2, "0,1")], {})) == [["0", "1"]]
    assert visible(on_gpu([model("a", 2, "4, 5,6 ,7")], {})) == [["4,5", "6,7"]]
    assert visible(on_gpu([model("a", 1, "1, 0")], {})) == [["1, 0"]]
    assert fractions(on_gpu([model("a", 2, "0,1")], {"a": 0.9})) == [[0.9, 0.9]]
    assert fractions(on_gpu([model("a", 2, "0,1")], {})) == [[None, None]]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (model("a", 2, "0,1,2"), "a: CUDA_VISIBLE_DEVICES names 3 GPUs, .* among 2 replicas: name"),
        (model("a", 4, "0,1"), "names 2 GPUs, which cannot be divided evenly among 4 replicas"),
        (
            model("a", 2, "0,1", tensor_parallel_size=2),
            r"tensor-parallel-size = 2 GPUs for each of 2 replicas, and CUDA_VISIBLE_DEVICES names"
            r" 2 for all of them: name 4, or lower `replicas`",
        ),
        (
            model("a", 2, "0,1,2,3", tensor_parallel_size=2, pipeline_parallel_size=2),
            "tensor-parallel-size x pipeline-parallel-size = 4 GPUs for each of 2 .* name 8",
        ),
        (model("a", 2, "0", tensor_parallel_size=2), "names 1 for all of them: name 4"),
    ],
)
def test_gpus_that_do_not_suffice(one: Model, words: str):
    with pytest.raises(ConfigError, match=words):
        on_gpu([one], {})


def test_engines_over_several_gpus():
    assert visible(on_gpu([model("a", 2, "0,1,2,3", tensor_parallel_size=2)], {})) == [
        ["0,1", "2,3"]
    ]
    assert fractions(on_gpu([model("a", 2, tensor_parallel_size=2)], {})) == [[0.46, 0.46]]
    assert on_gpu([model("a", 1, "0", tensor_parallel_size=2)], {})  # vLLM's own to judge


@pytest.mark.parametrize("share", ["high", -3, 0, 1.5, None])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_memory_flag_that_is_no_fraction(share: object, replicas: int):
    models = [model("a"), model("b", replicas, gpu_memory_utilization=share)]
    with pytest.raises(ConfigError, match=r"b: vllm\.gpu-memory-utilization: must be above 0"):
        on_gpu(models, {"a": 0.1})


@given(
    wanted=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.none() | st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
            st.none() | st.floats(0.01, 1),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_gpu_is_promised_twice(wanted: list[tuple[int, list[int] | None, float | None]]):
    models = [
        model(f"m{index}", replicas, None if gpus is None else ",".join(map(str, gpus)))
        for index, (replicas, gpus, _) in enumerate(wanted)
    ]
    given_fractions = {f"m{i}": f for i, (_, _, f) in enumerate(wanted) if f is not None}
    expected: dict[int, float] = {}  # GPU: fraction
    for replicas, gpus, fraction in wanted:
        of_each = VLLM_GPU_MEMORY if fraction is None else fraction
        for gpu in gpus or [0]:
            expected[gpu] = expected.get(gpu, 0) + of_each
        if gpus and len(gpus) > 1 and len(gpus) % replicas:
            with pytest.raises(ConfigError):
                on_gpu(models, given_fractions)
            return
    assume(all(abs(fraction - 1) > 1e-6 for fraction in expected.values()))
    if max(expected.values()) > 1:
        with pytest.raises(ConfigError, match="more than the GPU has"):
            on_gpu(models, given_fractions)
        return
    taken = dict.fromkeys(expected, 0.0)
    engines = on_gpu(models, given_fractions)
    assert [len(replicas) for replicas in engines] == [replicas for replicas, _, _ in wanted]
    for engine in chain.from_iterable(engines):
        for gpu in str(engine.env.get(VISIBLE, "0")).split(","):
            taken[int(gpu)] += float(str(engine.vllm.get(MEMORY_FLAG, VLLM_GPU_MEMORY)))
    assert taken == pytest.approx(expected)


# The command line.


def test_the_command_line_tells_of_replicas(tmp_path: Path):
    config = write_config(tmp_path, "replicas: 2\nvllm: {gpu-memory-utilization: 0.5}\n")
    arguments = [str(config), "--device", "gpu", "--run-dir", "/run/x"]

    def say(verb: str, *more: str) -> list[str]:
        command = [sys.executable, "-m", "serve", verb, *arguments, *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    weights = tmp_path / "weights"
    assert say("check")[0] == (f"fake: {weights}, score: logit (2 replicas) (the default)")
    commands = say("argv", "--vllm", "vllm-server")
    assert [f"--uds /run/x/8000/engine-{n}/http.sock" in c for n, c in enumerate(commands)] == [
        True,
        True,
    ]
    assert all("--gpu-memory-utilization 0.25" in command for command in commands)
