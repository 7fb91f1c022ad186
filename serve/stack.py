"""Several models behind one address: a stack's YAML, and how its engines share the machine.

models:
  bge-reranker-v2-m3: {gpu_memory: 0.25}        # a config's name; `config:` says another
  bge-reranker-v2-gemma: {gpu_memory: 0.65}
  m3-then-gemma:
    cascade: {first: bge-reranker-v2-m3, then: bge-reranker-v2-gemma, keep: 20}
default: bge-reranker-v2-m3                     # who answers a request that names no model
llm: bge-reranker-v2-gemma                      # who answers `use_llm: true`
unknown_model: refuse                           # 404; or `default`: the default answers
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from serve import shelf
from serve.errors import ConfigError
from serve.reader import Reader, compose, nearest
from serve.spec import DeviceKind, Model, absolute

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
    gpu_memory: float | None = field(default=None, metadata={"min": 0.01})  # fraction of the GPU
    cores: int | None = field(default=None, metadata={"min": 1})  # of a CPU; unset: all of them
    cascade: Cascade | None = None


@dataclass(frozen=True)
class StackFile:
    """What a stack's YAML may hold."""

    models: Mapping[str, Entry]
    default: str | None = None  # unset: the first
    llm: str | None = None  # unset: the one whose spec says `llm: true`
    unknown_model: UnknownModel = "refuse"


@dataclass(frozen=True)
class Stack:
    """What one server serves. `default` is a name of `models` or `cascades`, `llm` of `models`."""

    models: Sequence[Model]
    default: str
    llm: str | None = None
    cascades: Mapping[str, Cascade] = field(default_factory=dict)
    unknown_model: UnknownModel = "refuse"
    shares: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> "Stack":
        """A stack of one model."""
        return cls((model,), default=model.name, llm=model.name if model.llm else None)

    def on(self, device: DeviceKind, cores: Sequence[int]) -> "Stack":
        """The stack with each model's share of one machine, whose CPU cores are `cores`.

        Raises ConfigError when the shares come to more than there is, showing the sum.
        """
        models = [model.on(device) for model in self.models]
        if len(models) > 1 and device == "gpu":
            models = self._with_gpu_memory(models)
        if device == "cpu":
            models = self._with_cores(models, cores)
        return replace(self, models=models, shares={})

    def _with_gpu_memory(self, models: Sequence[Model]) -> list[Model]:
        flag = "gpu-memory-utilization"
        given = {model.name: self.shares[model.name].gpu_memory for model in models}
        shared = [
            model
            if (share := given[model.name]) is None
            else replace(model, vllm={**model.vllm, flag: share})
            for model in models
        ]
        parts = {m.name: float(str(m.vllm.get(flag, VLLM_GPU_MEMORY))) for m in shared}
        if sum(parts.values()) > 1 + 1e-9:
            raise ConfigError(
                f"gpu_memory: {_sum(parts)}, more than the GPU has (1.0): give each model of the"
                f" stack a smaller `gpu_memory` (unset, vLLM takes {VLLM_GPU_MEMORY})"
            )
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


def _sum(parts: Mapping[str, float]) -> str:
    """`0.5 (a) + 0.6 (b) = 1.1`."""
    return f"{' + '.join(f'{p:g} ({n})' for n, p in parts.items())} = {sum(parts.values()):g}"


def find(wanted: str, configs: Path = shelf.CONFIGS) -> Stack:
    """What `MODEL=wanted` serves: a stack, or the one model that it means. Raises ConfigError."""
    path = Path(wanted).expanduser() if wanted.endswith((".yaml", ".yml")) else None
    path = path or next((p for p in configs.glob("*.yaml") if p.stem == wanted.lower()), None)
    if path is not None and shelf.is_stack(path):
        return load(path, configs)
    return Stack.of(shelf.find(wanted, configs))


def load(path: Path, configs: Path = shelf.CONFIGS) -> Stack:
    """The stack in one YAML file. Raises ConfigError."""
    root, reader = compose(path), Reader(path)
    file: StackFile = reader.build(StackFile, root)
    nodes = reader.entries(root)
    entries = reader.entries(nodes["models"])
    models: list[Model] = []
    for name, entry in file.models.items():
        where = reader.at(entries[name])
        if entry.cascade is None:
            models.append(_model(name, entry, path, configs, where))
        elif entry != Entry(cascade=entry.cascade):
            raise ConfigError(f"models.{name}: a cascade has no engine of its own", where)
    if not models:
        raise ConfigError("models: names no model", reader.at(root))
    cascades = {n: entry.cascade for n, entry in file.models.items() if entry.cascade is not None}
    stack = Stack(
        models=models,
        default=file.default or models[0].name,
        llm=file.llm or next((model.name for model in models if model.llm), None),
        cascades=cascades,
        unknown_model=file.unknown_model,
        shares={name: entry for name, entry in file.models.items() if name not in cascades},
    )
    _check_names(stack, reader, entries)
    _check_references(stack, reader, nodes, entries)
    return stack


def _model(name: str, entry: Entry, path: Path, configs: Path, where: str) -> Model:
    """The model of an entry. The entry's name is its first, before the config's own."""
    wanted = entry.config or name
    if wanted.endswith((".yaml", ".yml")):
        wanted = absolute(wanted, path)
        if Path(wanted).is_file() and shelf.is_stack(Path(wanted)):
            raise ConfigError(f"models.{name}: a stack cannot hold a stack", where)
    try:
        model = shelf.find(wanted, configs)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}", where) from error
    others = [other for other in model.names if other.lower() != name.lower()]
    return replace(model, names=(name, *others))


def _check_names(stack: Stack, reader: Reader, entries: Mapping[str, yaml.Node]) -> None:
    """Raises ConfigError when two entries answer to one name."""
    owner: dict[str, str] = {name.lower(): name for name in stack.cascades}
    for model in stack.models:
        for name in model.names:
            other = owner.setdefault(name.lower(), model.name)
            if other != model.name:
                words = f"models.{model.name}: {name!r} is also a name of {other}"
                raise ConfigError(
                    f"{words}: change `names:` of one", reader.at(entries[model.name])
                )


def _check_references(
    stack: Stack, reader: Reader, nodes: Mapping[str, yaml.Node], entries: Mapping[str, yaml.Node]
) -> None:
    """Raises ConfigError when `default`, `llm` or a cascade names what the stack has not."""
    models = [model.name for model in stack.models]
    wanted = [("default", stack.default, [*models, *stack.cascades], nodes.get("default"))]
    wanted.append(("llm", stack.llm or models[0], models, nodes.get("llm")))
    for name, cascade in stack.cascades.items():
        for side in ("first", "then"):
            where = f"models.{name}.cascade.{side}"
            wanted.append((where, getattr(cascade, side), models, entries[name]))
        if cascade.first == cascade.then:
            words = f"models.{name}.cascade: `first` and `then` are the same model"
            raise ConfigError(words, reader.at(entries[name]))
    for key, name, known, node in wanted:
        if name not in known and node is not None:
            words = f"{key}: no model {name!r} in this stack{nearest(name, known)}"
            raise ConfigError(f"{words}; it has: {', '.join(known)}", reader.at(node))
