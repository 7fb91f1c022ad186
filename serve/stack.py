"""Several models behind one address: what one server serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from serve.sharing import label, on_cpu, on_gpu
from serve.spec import DeviceKind, Hardware, Model

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
    # The fraction of a GPU's memory for all its replicas together.
    gpu_memory: float | None = field(default=None, metadata={"min": 0.01, "max": 1})
    cores: int | None = field(default=None, metadata={"min": 1})  # of a CPU, for each replica
    replicas: int | None = field(default=None, metadata={"min": 1})  # unset: what its YAML says
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
    engines: Sequence[Sequence[Model]] = ()  # by `on`: each model's replicas, as they are started

    @classmethod
    def of(cls, model: Model) -> "Stack":
        """A stack of one model."""
        return cls((model,), default=model.name, llm=model.name if model.llm else None)

    @property
    def needs(self) -> Hardware:
        """What one machine for all the models needs: what the stack's YAML says, else the sum of
        their memories (each replica's, since all have the one GPU), disks and downloads, and the
        highest of their versions."""

        def together(key: str) -> float:
            of_each: list[float] = [getattr(model.hardware, key) for model in self.models]
            if key in ("compute_capability", "cuda"):
                return max(of_each)
            is_each = key in ("memory_gib", "gpu_memory_gib")
            times = [model.replicas if is_each else 1 for model in self.models]
            return sum(need * count for need, count in zip(of_each, times, strict=True))

        said = {key: value for key, value in vars(self.hardware).items() if value}
        return Hardware(**{**{key.name: together(key.name) for key in fields(Hardware)}, **said})

    @property
    def memory_gib(self) -> Mapping[str, float]:
        """What the models need of a CPU's memory: a model and the number of its replicas → GiB."""
        return {label(m): m.hardware.memory_gib * m.replicas for m in self.models}

    def on(
        self, device: DeviceKind, cores: Sequence[int], apart: Sequence[int] | None = None
    ) -> "Stack":
        """The stack with its `engines`, each with its share of one machine, whose CPU cores are
        `cores`; `apart` are those of an engine that may use all: no two are one core's threads.
        `models` are what they all have in common.

        Raises ConfigError when the shares come to more than there is, showing the sum.
        """
        models = [model.on(device) for model in self.models]
        shares = self.shares.items()
        if device == "gpu":
            fractions = {name: e.gpu_memory for name, e in shares if e.gpu_memory is not None}
            engines = on_gpu(models, fractions)
        else:
            counts = {name: e.cores for name, e in shares if e.cores is not None}
            engines = on_cpu(models, counts, cores, apart)
        return replace(self, models=models, engines=engines)
