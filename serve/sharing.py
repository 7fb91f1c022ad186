"""How the engines of several models share one machine: its CPU cores, its GPUs, their memory.

Both functions give each model's replicas, fully laid out: what `argv.build` starts them with.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from serve.errors import ConfigError
from serve.spec import Model

BIND = "VLLM_CPU_OMP_THREADS_BIND"  # the cores of an engine
VISIBLE = "CUDA_VISIBLE_DEVICES"  # the GPUs of an engine; unset, it uses the first
MEMORY_FLAG = "gpu-memory-utilization"
PARALLEL_FLAGS = ("tensor-parallel-size", "pipeline-parallel-size")  # one GPU for each part
VLLM_GPU_MEMORY = 0.92  # what vLLM takes of a GPU's memory unless told otherwise


def on_cpu(
    models: Sequence[Model],
    counts: Mapping[str, int],
    cores: Sequence[int],
    apart: Sequence[int] | None = None,
) -> list[list[Model]]:
    """The replicas of each model, bound to cores of the machine's `cores`.

    Each replica of a model in `counts` (its name → how many) has cores of its own. Of the others, a
    single engine may use all, or those of `apart`, and several divide those that nobody has of
    their own. They get equally many, so that they compute alike; what does not divide is the
    gateway's. Where they outnumber the cores, each has one core, and some the same. A YAML that
    binds an engine's threads itself keeps its word.

    Raises ConfigError when `counts` come to more than there is.
    """
    wanted = {label(m): m.replicas * counts[m.name] for m in models if m.name in counts}
    total = sum(wanted.values())
    if total > len(cores):
        raise ConfigError(
            f"cores: {_sum(wanted)}, more than this machine has ({len(cores)}): lower them, or"
            " leave them out, and every engine may use all"
        )
    rest, dealt = cores[total:] or cores, iter(cores)

    def replica(model: Model, index: int) -> Model:
        if model.name in counts:
            return _bound(model, [next(dealt) for _ in range(counts[model.name])])
        if BIND in model.env:
            return model
        if model.replicas == 1:
            return _bound(model, apart or cores)
        return _bound(model, part(rest, index, model.replicas))

    return [[replica(model, index) for index in range(model.replicas)] for model in models]


def part(cores: Sequence[int], index: int, parts: int) -> Sequence[int]:
    """One of `parts` equal shares of cores: each core in one share at most, where they suffice."""
    size = len(cores) // parts
    if size == 0:
        return [cores[index % len(cores)]]
    return cores[index * size : (index + 1) * size]


def _bound(model: Model, cores: Sequence[int]) -> Model:
    return replace(model, env={**model.env, BIND: ",".join(map(str, cores))})


def on_gpu(models: Sequence[Model], fractions: Mapping[str, float]) -> list[list[Model]]:
    """The replicas of each model, with their GPUs and their fractions of a GPU's memory.

    A model's fraction, by `fractions` (its name → a fraction), its own flag or vLLM's default, is
    for all its replicas together where they share one GPU. GPUs that its YAML names are divided
    among them, and of its own GPUs each replica takes the whole fraction.

    Raises ConfigError when the GPUs do not divide or do not suffice, or when the fractions of one
    GPU come to more than there is.
    """
    flags = {name: {MEMORY_FLAG: fraction} for name, fraction in fractions.items()}
    given = [replace(m, vllm={**m.vllm, **flags.get(m.name, {})}) for m in models]
    engines = [list(_on_own_gpus(model)) for model in given]
    taken: dict[str, dict[str, float]] = {}  # of each GPU: model → fraction
    for engine in chain.from_iterable(engines):
        for gpu in _named_gpus(engine) or map(str, range(_world_size(engine))):
            parts = taken.setdefault(gpu, {})
            parts[engine.name] = parts.get(engine.name, 0.0) + _gpu_memory(engine)
    for parts in taken.values():
        check_gpu_memory(parts)
    return engines


def _on_own_gpus(model: Model) -> Iterator[Model]:
    """The replicas of a model, each with its part of the model's GPUs, or of the one's memory."""
    gpus, count, fraction = _named_gpus(model), model.replicas, _gpu_memory(model)
    if count == 1:
        yield model
        return
    is_shared = len(gpus) < 2
    if not is_shared and len(gpus) % count:
        raise ConfigError(
            f"{model.name}: {VISIBLE} names {len(gpus)} GPUs, which cannot be divided evenly among"
            f" {count} replicas: name a multiple of {count} GPUs, or one that all of them share, or"
            " change `replicas`"
        )
    each = len(gpus) if is_shared else len(gpus) // count
    needed = _world_size(model)
    if gpus and needed > each:
        flags = " x ".join(flag for flag in PARALLEL_FLAGS if flag in model.vllm)
        raise ConfigError(
            f"{model.name}: {flags} = {needed} GPUs for each of {count} replicas, and"
            f" {VISIBLE} names {len(gpus)} for all of them: name {needed * count}, or lower"
            " `replicas`"
        )
    for index in range(count):
        if is_shared:
            yield replace(model, vllm={**model.vllm, MEMORY_FLAG: fraction / count})
        else:
            own = ",".join(gpus[index * each : (index + 1) * each])
            yield replace(model, env={**model.env, VISIBLE: own})


def _named_gpus(model: Model) -> list[str]:
    """The GPUs that a model is sent to, if its YAML says so."""
    named = str(model.env.get(VISIBLE, "")).split(",")
    return [gpu.strip() for gpu in named if gpu.strip()]


def _world_size(model: Model) -> int:
    """The GPUs over which one engine spreads, as far as its flags are numbers."""
    sizes = (model.vllm.get(flag) for flag in PARALLEL_FLAGS)
    return math.prod(size for size in sizes if isinstance(size, int))


def _gpu_memory(model: Model) -> float:
    """The fraction of a GPU's memory that vLLM takes for a model. Raises ConfigError."""
    share = model.vllm.get(MEMORY_FLAG, VLLM_GPU_MEMORY)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"{model.name}: vllm.{MEMORY_FLAG}: must be above 0 and at most 1")
    return share


def check_gpu_memory(parts: Mapping[str, float], where: str = "") -> None:
    """Raises ConfigError when fractions of one GPU (model → its own) come to more than there is."""
    if sum(parts.values()) > 1 + 1e-9:
        raise ConfigError(
            f"gpu_memory: {_sum(parts)}, more than the GPU has (1.0): give each model of the stack"
            f" a smaller `gpu_memory` (unset, vLLM takes {VLLM_GPU_MEMORY})",
            where,
        )


def label(model: Model) -> str:
    """A model with the number of its replicas: `2 x a`, or just `a`."""
    return model.name if model.replicas == 1 else f"{model.replicas} x {model.name}"


def _sum(parts: Mapping[str, float]) -> str:
    """`0.5 (a) + 0.6 (b) = 1.1`."""
    return f"{' + '.join(f'{p:g} ({n})' for n, p in parts.items())} = {sum(parts.values()):g}"
