"""Specs as vLLM command lines. The golden files hold what each shipped YAML stands for."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import argv
from serve.sharing import BIND
from serve.shelf import CONFIGS, is_stack
from serve.spec import DeviceKind, Model, load

GOLDEN = Path(__file__).parent / "golden" / "argv"
MODELS = [path for path in sorted(CONFIGS.glob("*.yaml")) if not is_stack(path)]


def build(model: Model, device: DeviceKind = "gpu") -> argv.Command:
    weights = f"<{model.model}>" if model.is_local else model.model
    return argv.build(
        model, weights=weights, socket="/run/x/http.sock", device=device, vllm=("vllm",)
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("config", MODELS, ids=lambda path: path.stem)
def test_golden_argv(config: Path, device: DeviceKind):
    command = build(load(config), device)
    lines = [*(f"{k}={v}" for k, v in command.env.items()), *command.argv]
    text = "\n".join(lines).replace(str(CONFIGS), "<configs>") + "\n"
    assert text == (GOLDEN / f"{config.stem}.{device}.txt").read_text()


def test_no_golden_file_is_left_over():
    known = {f"{path.stem}.{device}" for path in MODELS for device in ("cpu", "gpu")}
    assert {path.stem for path in GOLDEN.iterdir()} == known


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        (True, ["--flag"]),
        (False, ["--no-flag"]),
        (None, []),
        (7, ["--flag", "7"]),
        (0.5, ["--flag", "0.5"]),
        ("a b", ["--flag", "a b"]),
        ("-1", ["--flag=-1"]),
        (-1, ["--flag=-1"]),
        (["a", "b"], ["--flag", "a", "b"]),
        ({"a": [1, True]}, ["--flag", '{"a":[1,true]}']),
    ],
)
def test_a_flag_by_the_type_of_its_value(value: object, arguments: list[str]):
    command = build(Model(model="a/b", names=("m",), vllm={"flag": value}))
    bare = build(Model(model="a/b", names=("m",)))
    assert list(command.argv[len(bare.argv) :]) == arguments


@pytest.mark.parametrize(
    ("env", "vllm", "told"),
    [
        ({BIND: "0,2-4"}, {}, ["4", "{0,2,3,4}", "true"]),
        ({BIND: 1}, {}, ["1", "{1}", "true"]),
        ({BIND: "nobind"}, {}, [None, None, None]),
        ({}, {}, [None, None, None]),
        ({BIND: "0,1", "OMP_NUM_THREADS": 9}, {}, ["9", "{0,1}", "true"]),
    ],
)
def test_threads_of_the_only_process(
    env: dict[str, str | int | float], vllm: dict[str, object], told: list[str | None]
):
    command = build(Model(model="a/b", names=("m",), env=env, vllm=vllm), "cpu")
    names = ("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND")
    assert [command.env.get(name) for name in names] == told
    assert command.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0" and "uni" in command.argv


@pytest.mark.parametrize(
    "vllm", [{"distributed-executor-backend": "mp"}, {"tensor-parallel-size": 2}]
)
def test_a_model_in_several_processes_is_left_to_vllm(vllm: dict[str, object]):
    command = build(Model(model="a/b", names=("m",), env={BIND: "0|1"}, vllm=vllm), "cpu")
    assert "uni" not in command.argv
    assert not command.env.keys() & {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_PLACES"}


def test_the_device_lays_its_own_over_the_rest(tmp_path: Path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "model: a/b\nvllm: {dtype: float16, seed: 1}\nenv: {A: 1, VLLM_CPU_KVCACHE_SPACE: 3}\n"
        "cpu: {vllm: {dtype: float32}, env: {A: 2}}\n"
    )
    cpu, gpu = build(load(path), "cpu"), build(load(path), "gpu")
    assert "float32" in cpu.argv and "float16" not in cpu.argv and "--seed" in cpu.argv
    assert "float16" in gpu.argv
    assert (cpu.env["A"], gpu.env["A"]) == ("2", "1")
    assert cpu.env["VLLM_CPU_KVCACHE_SPACE"] == "3"  # a YAML's word goes over our own


def test_the_hub_is_not_asked_for_a_local_model():
    assert build(Model(model="/m", names=("m",))).env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in build(Model(model="a/b", names=("m",))).env


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_the_printed_command_is_what_a_shell_reads(value: str):
    command = build(Model(model="a/b", names=("m",), vllm={"flag": value}, env={"A": value}))
    words = shlex.split(str(command))
    assert words[-len(command.argv) :] == list(command.argv)
    assert f"A={value}" in words
