"""Our own program as one small file: what an instance needs beside vLLM's image."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from serve.errors import ConfigError
from serve.shelf import CONFIGS
from serve.spec import is_path
from serve.stack import Stack

ROOT = CONFIGS.parent
PARTS = ("serve", "configs", "deploy/lock/gateway.txt")
SUFFIXES = frozenset({".py", ".yaml", ".jinja", ".html", ".css", ".js", ".svg", ".txt"})
OWN = "model"  # the folder in the bundle for a YAML of one's own, and what it names
MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A compressed tar file. `model` is what `serve up` is told beside its unpacked content."""

    model: str
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256 in hex: the same for the same files, whenever it is made."""
        return hashlib.sha256(self.content).hexdigest()


def build(wanted: str, stack: Stack, root: Path = ROOT) -> Bundle:
    """The program under `root` and what `MODEL=wanted`, which means `stack`, needs of this
    machine: its YAML, and the YAMLs and templates that it names.

    Raises ConfigError for a model whose weights are in a folder here.
    """
    for model in stack.models:
        if is_path(model.model):
            raise ConfigError(
                f"model: {model.model} is a folder of this machine, and weights are not sent to an"
                " instance: put the model on Hugging Face and name it there"
            )
    files = {str(file.relative_to(root)): file for file in _program(root)}
    name = wanted
    if wanted.endswith((".yaml", ".yml")):
        yaml_file = Path(wanted).expanduser().resolve()
        own = _referred(yaml_file)
        files |= {f"{OWN}/{file.relative_to(yaml_file.parent)}": file for file in own}
        name = f"{OWN}/{yaml_file.name}"
    content = _tar(files)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{wanted}: comes to {len(content)} bytes, too many to send")
    return Bundle(name, content)


def _program(root: Path) -> Iterator[Path]:
    for part in PARTS:
        whole = root / part
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.suffix in SUFFIXES and "__pycache__" not in file.parts:
                yield file


def _referred(path: Path) -> set[Path]:
    """A YAML's file and all that it names, itself or through others."""
    found: set[Path] = set()
    todo = [path]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        if not file.is_relative_to(path.parent):
            raise ConfigError(f"{file} is outside of {path.parent}: put it beside the YAML")
        found.add(file)
        if file.suffix in (".yaml", ".yml"):
            texts = _texts(yaml.safe_load(file.read_text(encoding="utf-8")))
            todo += [named for text in texts if (named := _file(text, file.parent))]
    return found


def _texts(value: object) -> Iterator[str]:
    """Every text in a YAML's content, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _file(text: str, folder: Path) -> Path | None:
    """The YAML or template that a text of a YAML names, if it does."""
    if not text.endswith((".yaml", ".yml", ".jinja", ".jinja2", ".j2")) or "\n" in text:
        return None
    file = (folder / Path(text).expanduser()).resolve()
    return file if file.is_file() else None


def _tar(files: dict[str, Path]) -> bytes:
    """The files, with nothing of this machine in them: no owner, no times."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in sorted(files.items()):
            content = file.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)
