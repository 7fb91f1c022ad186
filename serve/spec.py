"""A model's YAML as a frozen, typed spec. Every default of the server lives in this file.

A dataclass's fields are the YAML's keys and their annotations its types, so this file is also the
reference of what a YAML may hold. What does not fit is a ConfigError with file, line and remedy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from serve.dialects.base import ENGINE_FIELDS
from serve.errors import ConfigError
from serve.reader import Reader, compose, nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_MODEL = "minilm"
PACKAGE = "package:"  # a model that an installed Python package carries: `package:NAME/FOLDER`

# What every model is asked with, unless its YAML says otherwise: an encoder's over-long pair is cut
# the way it was trained, the longer text first (vLLM: -1 is "to the model's maximum length").
ENCODER_REQUEST: Mapping[str, object] = {"truncate_prompt_tokens": -1}

# vLLM flags that the launcher itself sets, and what to write instead.
RESERVED_FLAGS: Mapping[str, str] = {
    "model": "write `model:` at the top of the file",
    "revision": "write `revision:` at the top of the file",
    "served-model-name": "write `names:` at the top of the file",
    "host": "an engine listens on a private Unix socket; the gateway's is `serve up --host`",
    "port": "an engine listens on a private Unix socket; the gateway's is `serve up --port`",
    "uds": "the launcher chooses the engine's socket",
    "api-key": "the gateway checks keys; use `serve up --api-key-file`",
    "data-parallel-size": "replicas are engines of their own, not vLLM ranks",
}


@dataclass(frozen=True)
class Device:
    """What is laid over a spec's own `vllm:` and `env:` on one kind of device."""

    vllm: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hardware:
    """What the model needs, for the checks before a start and for renting a machine."""

    memory_gib: float = field(default=0.0, metadata={"min": 0})  # on a CPU; 0: not checked
    gpu_memory_gib: float = field(default=0.0, metadata={"min": 0})
    disk_gib: float = field(default=0.0, metadata={"min": 0})
    compute_capability: float = field(default=0.0, metadata={"min": 0})
    cuda: float = field(default=0.0, metadata={"min": 0})


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how long things may take."""

    body_bytes: int = field(default=32 * 1024 * 1024, metadata={"min": 1})
    passages: int = field(default=10_000, metadata={"min": 1})
    text_chars: int = field(default=1_000_000, metadata={"min": 1})  # one query or passage
    pairs_in_flight: int = field(default=20_000, metadata={"min": 1})  # beyond it: 429
    timeout_s: float = field(default=300.0, metadata={"min": 0.001})  # one request
    start_timeout_s: float = field(default=1800.0, metadata={"min": 1})  # download included
    stop_timeout_s: float = field(default=30.0, metadata={"min": 0})  # draining


@dataclass(frozen=True)
class Model:
    """One model: what vLLM is started with, how it is asked, and what its values mean."""

    model: str  # a Hugging Face id, a local folder, or `package:NAME/FOLDER`
    revision: str | None = None  # the commit of the Hugging Face repository
    names: Sequence[str] = ()  # what clients may call it; logs and metrics say the first
    llm: bool = False  # an LLM reranker: the one that `use_llm: true` asks
    score: Literal["logit", "cosine"] = "logit"
    sha256: Mapping[str, str] = field(default_factory=dict)  # file of the model → its digest
    request: Mapping[str, object] = field(default_factory=lambda: ENCODER_REQUEST)
    vllm: Mapping[str, object] = field(default_factory=dict)  # flag → value, passed through
    env: Mapping[str, str | int | float] = field(default_factory=dict)  # the engine's environment
    cpu: Device = field(default_factory=Device)
    hardware: Hardware = field(default_factory=Hardware)
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        """The name in logs, metrics and the answers to clients that name none."""
        return self.names[0]

    @property
    def is_local(self) -> bool:
        """Whether the weights are on this machine, so that no hub is asked."""
        return self.model.startswith(PACKAGE) or _is_path(self.model)

    @property
    def max_model_len(self) -> int | None:
        """The longest input in tokens, when the YAML says it."""
        length = self.vllm.get("max-model-len")
        return length if isinstance(length, int) else None


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~"))


# -- finding -------------------------------------------------------------------------------------


def find(wanted: str, configs: Path = CONFIGS) -> Model:
    """The spec that `MODEL=wanted` means: a YAML's path, a config's name, a model's id or folder.

    Raises ConfigError when it means nothing, naming the nearest config, or more than one.
    """
    if wanted.endswith((".yaml", ".yml")):
        return load(Path(wanted).expanduser())
    shelf = load_all(configs)
    for path, model in shelf.items():
        if wanted.lower() in (path.stem.lower(), *(name.lower() for name in model.names)):
            return model
    if _is_path(wanted) and Path(_absolute(wanted, Path("x"))).is_dir():
        return plain(wanted)
    if wanted.count("/") == 1 and not _is_path(wanted):
        return plain(wanted)
    raise ConfigError(
        f"no model {wanted!r}{nearest(wanted, [path.stem for path in shelf])}; give a config's name"
        " (`ls configs`), a YAML's path, a Hugging Face id (`org/name`) or a model's folder"
    )


def plain(model: str) -> Model:
    """A spec for a model without a YAML: a cross-encoder with one logit, vLLM's own defaults."""
    short = model.rstrip("/").rsplit("/", 1)[-1]
    return Model(model=model, names=(short, model), vllm={"runner": "pooling"})


def load_all(configs: Path) -> dict[Path, Model]:
    """Every YAML of a folder. Raises ConfigError when two of them answer to one name."""
    shelf = {path: load(path) for path in sorted(configs.glob("*.yaml"))}
    owner: dict[str, Path] = {}
    for path, model in shelf.items():
        for name in {path.stem, *model.names}:
            other = owner.setdefault(name.lower(), path)
            if other != path:
                raise ConfigError(
                    f"{name!r} is also a name of {other.name}: rename one of them",
                    _line_of_name(path, name),
                )
    return shelf


def _line_of_name(path: Path, name: str) -> str:
    """`file:line` of a name in a YAML that has been read before."""
    reader, root = Reader(path), compose(path)
    names = reader.entries(root).get("names")
    items = names.value if isinstance(names, yaml.SequenceNode) else []
    return next((reader.at(item) for item in items if item.value == name), reader.at(root))


def load(path: Path) -> Model:
    """The spec in one YAML file. Raises ConfigError."""
    root, reader = compose(path), Reader(path)
    model: Model = reader.build(Model, root)
    nodes = reader.entries(root)
    names = tuple(model.names) or (path.stem, model.model)
    for key in model.request:
        if key not in ENGINE_FIELDS:
            where = reader.entries(nodes["request"])[key]
            words = f"unknown key 'request.{key}'{nearest(key, ENGINE_FIELDS)}"
            raise ConfigError(f"{words}; known: {', '.join(ENGINE_FIELDS)}", reader.at(where))
    for index, name in enumerate(names):
        if name.lower() in (earlier.lower() for earlier in names[:index]):
            raise ConfigError(f"names: {name!r} stands twice", reader.at(nodes["names"]))
    return replace(
        model,
        model=_absolute(model.model, path) if _is_path(model.model) else model.model,
        names=names,
        vllm=_flags(reader, nodes),
        cpu=replace(model.cpu, vllm=_flags(reader, reader.entries(nodes["cpu"])))
        if "cpu" in nodes
        else model.cpu,
    )


def _absolute(relative: str, path: Path) -> str:
    try:
        return str((path.parent / Path(relative).expanduser()).resolve())
    except RuntimeError as error:  # `~name` of nobody
        raise ConfigError(f"{relative}: {error}", str(path)) from error


def _flags(reader: Reader, nodes: Mapping[str, yaml.Node]) -> Mapping[str, object]:
    """The flags under `vllm:` in their dashed spelling, a template file as its absolute path."""
    flags: dict[str, object] = {}
    for key, node in reader.entries(nodes["vllm"]).items() if "vllm" in nodes else ():
        flag = key.replace("_", "-")
        if flag in RESERVED_FLAGS:
            raise ConfigError(f"vllm.{key}: {RESERVED_FLAGS[flag]}", reader.at(node))
        if flag in flags:
            raise ConfigError(f"vllm.{key}: stands twice", reader.at(node))
        flags[flag] = value = reader.plain(node)
        if flag == "chat-template" and "{" not in str(value):  # else the template itself
            flags[flag] = file = _absolute(str(value), reader.path)
            if not Path(file).is_file():
                raise ConfigError(f"vllm.{key}: there is no file {file}", reader.at(node))
    return flags
