"""Where a model's files are on this machine, and whether they are the files that the spec names."""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

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
