"""A stack's YAML: several models behind one address.

models:
  bge-reranker-v2-m3: {gpu_memory: 0.25, replicas: 2}   # a config's name; `config:` says another
  bge-reranker-v2-gemma: {gpu_memory: 0.65}
  m3-then-gemma:
    cascade: {first: bge-reranker-v2-m3, then: bge-reranker-v2-gemma, keep: 20}
default: bge-reranker-v2-m3                     # who answers a request that names no model
llm: bge-reranker-v2-gemma                      # who answers `use_llm: true`
unknown_model: refuse                           # 404; or `default`: the default answers
hardware: {gpu_memory_gib: 22}                  # what all of them need, if it is not the sum
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from serve import shelf
from serve.errors import ConfigError
from serve.reader import Reader, compose, nearest
from serve.sharing import VISIBLE, check_gpu_memory
from serve.spec import Hardware, Model, absolute, check_name, is_path
from serve.stack import Cascade, Entry, Stack, UnknownModel


@dataclass(frozen=True)
class StackFile:
    """What a stack's YAML may hold."""

    models: Mapping[str, Entry]
    default: str | None = None  # unset: the first
    llm: str | None = None  # unset: the one whose spec says `llm: true`
    unknown_model: UnknownModel = "refuse"
    hardware: Hardware = field(default_factory=Hardware)  # unset keys: the models' together


def find(wanted: str, configs: Path = shelf.CONFIGS) -> Stack:
    """What `MODEL=wanted` serves: a stack, or the one model that it means. Raises ConfigError."""
    path = shelf.find_stack(wanted, configs)
    return load(path, configs) if path else Stack.of(shelf.find(wanted, configs))


def load(path: Path, configs: Path = shelf.CONFIGS) -> Stack:
    """The stack in one YAML file. Raises ConfigError."""
    root, reader = compose(path), Reader(path)
    file: StackFile = reader.build(StackFile, root)
    nodes = reader.entries(root)
    entries = reader.entries(nodes["models"])
    models: list[Model] = []
    for name, entry in file.models.items():
        where = reader.at(entries[name])
        check_name(name, f"models.{name}", where)
        if "cascade" not in _keys(reader, entries[name]):
            models.append(_model(name, entry, path, configs, where))
        elif entry.cascade is None or entry != Entry(cascade=entry.cascade):
            words = "a cascade has `first`, `then` and `keep`, and no engine of its own"
            raise ConfigError(f"models.{name}: {words}", where)
    if not models:
        raise ConfigError("models: names no model", reader.at(root))
    given = {name: e.gpu_memory for name, e in file.models.items() if e.gpu_memory is not None}
    if not any(VISIBLE in model.env for model in models):
        check_gpu_memory(given, reader.at(nodes["models"]))
    _check_names(models, file, reader, entries)
    refer = _References(models, reader)
    cascades = {
        name: Cascade(
            refer.model(entry.cascade.first, f"models.{name}.cascade.first", entries[name]),
            refer.model(entry.cascade.then, f"models.{name}.cascade.then", entries[name]),
            entry.cascade.keep,
        )
        for name, entry in file.models.items()
        if entry.cascade is not None
    }
    _check_cascades(cascades, models, reader, entries)
    return Stack(
        models=models,
        default=refer.any(file.default, cascades, nodes.get("default")) or models[0].name,
        llm=refer.model(file.llm, "llm", nodes["llm"])
        if file.llm
        else next((model.name for model in models if model.llm), None),
        cascades=cascades,
        unknown_model=file.unknown_model,
        shares={name: entry for name, entry in file.models.items() if name not in cascades},
        hardware=file.hardware,
    )


def _keys(reader: Reader, node: yaml.Node) -> Mapping[str, yaml.Node]:
    """The keys of an entry, which may hold nothing at all."""
    return reader.entries(node) if isinstance(node, yaml.MappingNode) else {}


def _model(name: str, entry: Entry, path: Path, configs: Path, where: str) -> Model:
    """The model of an entry. The entry's name is its first, before the config's own."""
    wanted = entry.config or name
    if wanted.endswith((".yaml", ".yml")) or is_path(wanted):
        wanted = absolute(wanted, path)
    try:
        if shelf.find_stack(wanted, configs):
            raise ConfigError("a stack cannot hold a stack")
        model = shelf.find(wanted, configs)
    except ConfigError as error:
        raise ConfigError(f"models.{name}: {error}", where) from error
    others = [other for other in model.names if other.lower() != name.lower()]
    return replace(model, names=(name, *others), replicas=entry.replicas or model.replicas)


def _check_names(
    models: Sequence[Model], file: StackFile, reader: Reader, entries: Mapping[str, yaml.Node]
) -> None:
    """Raises ConfigError when two entries answer to one name."""
    names = {model.name: model.names for model in models}
    owner: dict[str, str] = {}
    for entry in file.models:
        for name in names.get(entry, (entry,)):
            other = owner.setdefault(name.lower(), entry)
            if other != entry:
                raise ConfigError(
                    f"models.{entry}: {name!r} is also a name of {other}: give one of them a YAML"
                    " of its own, with other `names:`",
                    reader.at(entries[entry]),
                )


def _check_cascades(
    cascades: Mapping[str, Cascade],
    models: Sequence[Model],
    reader: Reader,
    entries: Mapping[str, yaml.Node],
) -> None:
    """Raises ConfigError for a cascade that could not answer."""
    most = {model.name: model.limits.passages for model in models}
    for name, cascade in cascades.items():
        where = reader.at(entries[name])
        if cascade.first == cascade.then:
            words = "`first` and `then` are the same model"
            raise ConfigError(f"models.{name}.cascade: {words}", where)
        if cascade.keep > most[cascade.then]:
            words = f"is more than {cascade.then} takes (`limits: {{passages: …}}`)"
            raise ConfigError(f"models.{name}.cascade.keep: {words}", where)


@dataclass(frozen=True)
class _References:
    """Finds what a stack's YAML refers to by any of its names. Raises ConfigError."""

    models: Sequence[Model]
    reader: Reader

    def model(self, wanted: str, key: str, node: yaml.Node) -> str:
        """The first name of the model called `wanted`."""
        for model in self.models:
            if wanted.lower() in (name.lower() for name in model.names):
                return model.name
        known = [model.name for model in self.models]
        words = f"{key}: no model {wanted!r} in this stack{nearest(wanted, known)}"
        raise ConfigError(f"{words}; it has: {', '.join(known)}", self.reader.at(node))

    def any(
        self, wanted: str | None, cascades: Mapping[str, Cascade], node: yaml.Node | None
    ) -> str | None:
        """The first name of the model, or the cascade, that `default` calls `wanted`."""
        if wanted is None or node is None:
            return None
        by_name = {name.lower(): name for name in cascades}
        return by_name.get(wanted.lower()) or self.model(wanted, "default", node)
