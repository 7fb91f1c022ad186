"""A model's YAML as a frozen, typed spec. Every default of a model lives in this file.

A dataclass's fields are the YAML's keys and their annotations its types, so this file is also the
reference of what a YAML may hold. What does not fit is a ConfigError with file, line and remedy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from serve.dialects.options import ENGINE_FIELDS, engine_options
from serve.errors import ConfigError, InvalidRequest
from serve.reader import Reader, compose, nearest
from serve.rerank import Score

DeviceKind = Literal["cpu", "gpu"]

PACKAGE = "package:"  # a model that an installed Python package carries: `package:NAME/FOLDER`

# What every model is asked with, unless its YAML says otherwise: an encoder's over-long pair is cut
# the way it was trained, the longer text first (vLLM: -1 is "to the model's maximum length").
ENCODER_REQUEST: Mapping[str, object] = {"truncate_prompt_tokens": -1}
# An LLM reranker's prompt ends with its instruction, so each text is cut by itself, before it.
LLM_LIMITS = ("max_tokens_per_query", "max_tokens_per_doc")

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
    """What the model needs. On a CPU `memory_gib` is checked before a start; the rest is for
    whoever chooses a machine, as `python -m deploy vast` does. 0 is "not said"."""

    memory_gib: float = field(default=0.0, metadata={"min": 0})  # on a CPU; 0: not checked
    gpu_memory_gib: float = field(default=0.0, metadata={"min": 0})
    disk_gib: float = field(default=0.0, metadata={"min": 0})
    download_gb: float = field(default=0.0, metadata={"min": 0})  # of weights, before it can serve
    compute_capability: float = field(default=0.0, metadata={"min": 0})
    cuda: float = field(default=0.0, metadata={"min": 0})  # that the GPU's driver must know


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how long things may take."""

    body_bytes: int = field(default=32 * 1024 * 1024, metadata={"min": 1})
    passages: int = field(default=10_000, metadata={"min": 1})
    text_chars: int = field(default=1_000_000, metadata={"min": 1})  # one query or passage
    pairs_in_flight: int = field(default=20_000, metadata={"min": 1})  # beyond it: 429
    # Memory of the texts that wait or are scored; beyond it: 429.
    bytes_in_flight: int = field(default=256 * 1024 * 1024, metadata={"min": 1})
    timeout_s: float = field(default=300.0, metadata={"min": 0.001})  # one request
    # The longest that a request would wait for those before it; beyond it: 429.
    wait_s: float = field(default=30.0, metadata={"min": 0.001})
    # An engine that owes answers and gives none for so long is started again.
    stall_timeout_s: float = field(default=60.0, metadata={"min": 0.1})
    start_timeout_s: float = field(default=1800.0, metadata={"min": 1})  # download included
    stop_timeout_s: float = field(default=30.0, metadata={"min": 0})  # draining


@dataclass(frozen=True)
class Cache:
    """What is kept of pairs that were scored; `cache: 0` keeps nothing, and scores all anew."""

    SHORTHAND: ClassVar[str] = "memory_mib"

    memory_mib: float = field(default=64.0, metadata={"min": 0})  # some 300,000 pairs


@dataclass(frozen=True)
class Model:
    """One model: what vLLM is started with, how it is asked, and what its values mean."""

    model: str  # a Hugging Face id, a local folder, or `package:NAME/FOLDER`
    revision: str | None = None  # the commit of the Hugging Face repository
    names: Sequence[str] = ()  # what clients may call it; logs and metrics say the first
    llm: bool = False  # an LLM reranker: the one that `use_llm: true` asks
    replicas: int = field(default=1, metadata={"min": 1})  # vLLM processes that share its requests
    score: Score = field(default_factory=Score)
    sha256: Mapping[str, str] = field(default_factory=dict)  # file of the model → its digest
    request: Mapping[str, object] = field(default_factory=lambda: ENCODER_REQUEST)
    vllm: Mapping[str, object] = field(default_factory=dict)  # flag → value, passed through
    env: Mapping[str, str | int | float] = field(default_factory=dict)  # the engine's environment
    cpu: Device = field(default_factory=Device)
    hardware: Hardware = field(default_factory=Hardware)
    limits: Limits = field(default_factory=Limits)
    cache: Cache = field(default_factory=Cache)

    @property
    def name(self) -> str:
        """The name in logs, metrics and the answers to clients that name none."""
        return self.names[0]

    @property
    def is_local(self) -> bool:
        """Whether the weights are on this machine, so that no hub is asked."""
        return self.model.startswith(PACKAGE) or is_path(self.model)

    @property
    def max_model_len(self) -> int | None:
        """The longest input in tokens, when the YAML says it as a number."""
        length = self.vllm.get("max-model-len")
        return length if isinstance(length, int) else None

    @property
    def template(self) -> str | None:
        """The prompt's template, as a file's path or the text itself."""
        template = self.vllm.get("chat-template")
        return None if template is None else str(template)

    def on(self, device: DeviceKind) -> "Model":
        """The model as it is served on one kind of device, with nothing left to lay over it."""
        if device == "gpu":
            return replace(self, cpu=Device())
        vllm, env = {**self.vllm, **self.cpu.vllm}, {**self.env, **self.cpu.env}
        return replace(self, vllm=vllm, env=env, cpu=Device())


def is_path(model: str) -> bool:
    """Whether a model is named as a folder of this machine."""
    return model.startswith(("/", "./", "../", "~"))


def load(path: Path) -> Model:
    """The spec in one YAML file. Raises ConfigError."""
    root, reader = compose(path), Reader(path)
    model: Model = reader.build(Model, root)
    nodes = reader.entries(root)
    names = tuple(model.names) or (path.stem, *(() if model.is_local else (model.model,)))
    for index, name in enumerate(names):
        check_name(name, "names", reader.at(nodes.get("names", root)))
        if name.lower() in (earlier.lower() for earlier in names[:index]):
            raise ConfigError(f"names: {name!r} stands twice", reader.at(nodes["names"]))
    model = replace(
        model,
        model=absolute(model.model, path) if is_path(model.model) else model.model,
        names=names,
        request=_request(model, "request" in nodes),
        vllm=_flags(reader, nodes),
        cpu=replace(model.cpu, vllm=_flags(reader, reader.entries(nodes["cpu"])))
        if "cpu" in nodes
        else model.cpu,
    )
    _check_request(model, reader, nodes.get("request", root))
    if model.llm != (model.template is not None):
        raise ConfigError(
            "llm: an LLM reranker needs the prompt that it was trained with: write `llm: true` and"
            " `vllm: {chat-template: …}`, or neither",
            reader.at(nodes.get("llm", nodes.get("vllm", root))),
        )
    return model


def check_name(name: str, key: str, where: str) -> None:
    """Raises ConfigError for what is no name that a client could send."""
    if not name.strip() or not name.isprintable() or is_path(name):
        raise ConfigError(f"{key}: {name!r} is no name: write plain words, no path", where)


def _request(model: Model, is_given: bool) -> Mapping[str, object]:
    given = model.request if is_given else {}
    return given if model.llm else {**ENCODER_REQUEST, **given}


def _check_request(model: Model, reader: Reader, node: yaml.Node) -> None:
    """Raises ConfigError for a field that vLLM has not, or that would cut an instruction."""
    for key, value in model.request.items():
        if key not in ENGINE_FIELDS:
            words = f"unknown key 'request.{key}'{nearest(key, ENGINE_FIELDS)}"
            where = reader.at(reader.entries(node)[key])
            raise ConfigError(f"{words}; known: {', '.join(ENGINE_FIELDS)}", where)
        if value is None:
            raise ConfigError(f"request.{key}: is null: leave it out", reader.at(node))
    try:
        options = engine_options(model.request)
    except InvalidRequest as error:
        raise ConfigError(f"request: {error}", reader.at(node)) from error
    if options != model.request:  # which clients may do
        raise ConfigError("request: has a number in quotes: write it plainly", reader.at(node))
    if not model.llm:
        return
    if "truncate_prompt_tokens" in model.request:
        words = "would cut the instruction at the prompt's end: write"
        raise ConfigError(
            f"request.truncate_prompt_tokens: {words} {' and '.join(LLM_LIMITS)}", reader.at(node)
        )
    limits = [model.request.get(name) for name in LLM_LIMITS]
    if not all(isinstance(limit, int) and limit > 0 for limit in limits):
        raise ConfigError(
            f"request: an LLM reranker needs {' and '.join(LLM_LIMITS)}, which cut each text by"
            " itself, so that the instruction stays whole",
            reader.at(node),
        )
    total = sum(limit for limit in limits if isinstance(limit, int))
    if model.max_model_len is not None and total >= model.max_model_len:
        raise ConfigError(
            f"request: {' + '.join(LLM_LIMITS)} = {total} leaves no room for the instruction in"
            f" max-model-len ({model.max_model_len})",
            reader.at(node),
        )


def absolute(relative: str, path: Path) -> str:
    """A path in the YAML `path` as an absolute one: it is relative to the YAML's folder."""
    try:
        return str((path.parent / Path(relative).expanduser()).resolve())
    except (RuntimeError, ValueError) as error:  # `~name` of nobody; a NUL
        raise ConfigError(f"{relative!r}: {error}", str(path)) from error


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
            flags[flag] = file = absolute(str(value), reader.path)
            if not Path(file).is_file():
                raise ConfigError(f"vllm.{key}: there is no file {file}", reader.at(node))
    return flags
