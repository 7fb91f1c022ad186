"""Where a model's files are on this machine, and whether they are the files that the spec names."""

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from serve import __version__
from serve.errors import ConfigError
from serve.spec import PACKAGE, Model


def locate(model: Model) -> str:
    """What vLLM is given as `--model`: a folder on this machine, or a Hugging Face id as it is.

    Raises ConfigError when a local model is not there.
    """
    if not model.is_local:
        return model.model
    folder = _in_package(model.model) if model.model.startswith(PACKAGE) else Path(model.model)
    folder = folder.expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model: {model.model}: no config.json in {folder}; name a model's folder"
        )
    return str(folder)


def bytes_downloading(model: Model, environment: Mapping[str, str]) -> int | None:
    """Bytes of `model` in Hugging Face's cache while some file of it is incomplete, else None.

    vLLM downloads without a word, so the cache is all there is to see. `environment` says where it
    is, by huggingface_hub's own rules.
    """
    if model.is_local:
        return None
    blobs = _hub_cache(environment) / f"models--{model.model.replace('/', '--')}" / "blobs"
    try:
        sizes = {file.name: file.stat().st_size for file in blobs.iterdir()}
    except OSError:
        return None
    return sum(sizes.values()) if any(n.endswith(".incomplete") for n in sizes) else None


def tokenizer_file(model: Model, folder: str, environment: Mapping[str, str]) -> Path | None:
    """The `tokenizer.json` of a model in `folder`, or in Hugging Face's cache once it is there.

    The YAML's vLLM flags may name another tokenizer or cache.
    """
    name = str(model.vllm.get("tokenizer", folder))
    if not Path(name).is_dir():
        caches = [Path(str(model.vllm.get("download-dir", "."))), _hub_cache(environment)]
        inside = f"models--{name.replace('/', '--')}"
        cached = next((c / inside for c in caches if (c / inside).is_dir()), caches[1] / inside)
        revision = str(model.vllm.get("tokenizer-revision", model.revision or "main"))
        with suppress(OSError):  # a commit is its own name
            revision = (cached / "refs" / revision).read_text().strip()
        name = str(cached / "snapshots" / revision)
    file = Path(name) / "tokenizer.json"
    return file if file.is_file() else None


def template(model: Model) -> str:
    """The text of the model's prompt template, empty when it has none."""
    source = model.template or ""
    return source if not source or "{" in source else Path(source).read_text(encoding="utf-8")


def identity(model: Model, folder: str, more: object) -> bytes:
    """A digest of what scores depend on beside the request: the model and how it is served; `more`
    is what else there is. `model` is laid out for its device.

    Weights are told apart by their revision or digests, or by their files' sizes and times.
    """
    flags = {name: value for name, value in model.vllm.items() if name != "chat-template"}
    parts = [__version__, model.model, model.revision, template(model), more]
    parts += [sorted(map(repr, each.items())) for each in (flags, model.env, model.sha256)]
    if model.is_local and not model.sha256:
        files = [(file.name, file.stat()) for file in sorted(Path(folder).iterdir())]
        parts += [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    return hashlib.sha256(repr(parts).encode()).digest()


def is_pinned(model: Model) -> bool:
    """Whether `identity` is that of the same weights on any machine."""
    if model.is_local:
        return bool(model.sha256)
    return re.fullmatch("[0-9a-f]{7,40}", model.revision or "") is not None


def _hub_cache(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CACHE_HOME", "~/.cache") + "/huggingface"
    cache = environment.get("HF_HUB_CACHE", environment.get("HF_HOME", home) + "/hub")
    return Path(os.path.expandvars(cache)).expanduser()


def _in_package(reference: str) -> Path:
    """The folder that `package:NAME/FOLDER` means, without importing the package."""
    name, _, inside = reference.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"model: the Python package {name!r} is not installed; `make install`")
    return Path(found.submodule_search_locations[0]) / inside


def verify(folder: str, digests: Mapping[str, str]) -> None:
    """Raises ConfigError unless each file in `folder` has the SHA-256 digest that it should."""
    for name, expected in digests.items():
        try:
            with (Path(folder) / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(f"sha256: {name} cannot be read: {error}") from error
        if digest != expected.lower():
            raise ConfigError(
                f"sha256: {Path(folder) / name} is not the file that the config names"
                f" (expected {expected}, got {digest}); install the model again"
            )
