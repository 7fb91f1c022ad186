"""Several models behind one address, and how their engines share one machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from serve.errors import ConfigError
from serve.spec import DeviceKind, Hardware, Model

MEMORY_FLAG = "gpu-memory-utilization"
VLLM_GPU_MEMORY = 0.92  # what vLLM takes of a GPU's memory unless told otherwise
UnknownModel = Literal["refuse", "default"]


@dataclass(frozen=True)
class Cascade:
    """All passages by the model `first`; the best `keep` of them again by the model `then`."""

    first: str
    then: str
    keep: int = field(default=20, metadata={"min": 1})


@dataclass(frozen=True)
class Entry:
    """One name that a stack serves: a model with its share of the machine, or a cascade."""

    config: str | None = None  # a config's name, a YAML's path, …; unset: the entry's own name
    gpu_memory: float | None = field(default=None, metadata={"min": 0.01, "max": 1})  # a fraction
    cores: int | None = field(default=None, metadata={"min": 1})  # of a CPU; unset: all of them
    cascade: Cascade | None = None


@dataclass(frozen=True)
class Stack:
    """What one server serves. `default` is a name of `models` or `cascades`, `llm` of `models`."""

    models: Sequence[Model]
    default: str
    llm: str | None = None
    cascades: Mapping[str, Cascade] = field(default_factory=dict)
    unknown_model: UnknownModel = "refuse"
    shares: Mapping[str, Entry] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)  # of all together, where the YAML says it

    @classmethod
    def of(cls, model: Model) -> "Stack":
        """A stack of one model."""
        return cls((model,), default=model.name, llm=model.name if model.llm else None)

    @property
    def needs(self) -> Hardware:
        """What one machine for all the models needs: what the stack's YAML says, else the sum of
        their memories, disks and downloads, and the highest of their versions."""
        highest = ("compute_capability", "cuda")
        together = {
            key.name: (max if key.name in highest else sum)(
                getattr(model.hardware, key.name) for model in self.models
            )
            for key in fields(Hardware)
        }
        said = {key: value for key, value in vars(self.hardware).items() if value}
        return Hardware(**{**together, **said})

    def on(self, device: DeviceKind, cores: Sequence[int]) -> "Stack":
        """The stack with each model's share of one machine, whose CPU cores are `cores`.

        Raises ConfigError when the shares come to more than there is, showing the sum.
        """
        models = [model.on(device) for model in self.models]
        if device == "gpu":
            models = self._with_gpu_memory(models)
        else:
            models = self._with_cores(models, cores)
        return replace(self, models=models, shares={})

    def _with_gpu_memory(self, models: Sequence[Model]) -> list[Model]:
        shared = []
        for model in models:
            share = self.shares.get(model.name, Entry()).gpu_memory
            flags = {} if share is None else {MEMORY_FLAG: share}
            shared.append(replace(model, vllm={**model.vllm, **flags}))
        # The models that are sent to each GPU, with their fractions of it.
        on_one: dict[str, dict[str, float]] = {}
        for model in shared:
            for gpu in str(model.env.get("CUDA_VISIBLE_DEVICES", "0")).split(","):
                on_one.setdefault(gpu.strip(), {})[model.name] = _gpu_memory(model)
        for parts in on_one.values():
            check_gpu_memory(parts)
        return shared

    def _with_cores(self, models: Sequence[Model], cores: Sequence[int]) -> list[Model]:
        wanted = {m.name: share.cores for m in models if (share := self.shares.get(m.name))}
        parts = {name: count for name, count in wanted.items() if count is not None}
        if sum(parts.values()) > len(cores):
            raise ConfigError(
                f"cores: {_sum(parts)}, more than this machine has ({len(cores)}): lower them, or"
                " leave them out, and every engine may use all"
            )
        shared, free = [], list(cores)
        for model in models:
            count = parts.get(model.name)
            if count is not None:
                own, free = free[:count], free[count:]
                bind = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, own))}
                model = replace(model, env={**model.env, **bind})
            shared.append(model)
        return shared


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


def _sum(parts: Mapping[str, float]) -> str:
    """`0.5 (a) + 0.6 (b) = 1.1`."""
    return f"{' + '.join(f'{p:g} ({n})' for n, p in parts.items())} = {sum(parts.values()):g}"
