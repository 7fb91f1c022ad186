"""Which model `MODEL=…` means: a YAML's path, a config's name, a Hugging Face id, a folder."""

from pathlib import Path

import yaml

from serve.errors import ConfigError
from serve.reader import Reader, compose, nearest
from serve.spec import Model, absolute, is_path, load

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_MODEL = "minilm"


def find(wanted: str, configs: Path = CONFIGS) -> Model:
    """The model that `wanted` means. Raises ConfigError when it means none, naming the nearest
    config, or more than one."""
    if wanted.endswith((".yaml", ".yml")):
        return load(_path(wanted))
    shelf = load_all(configs)
    for path, model in shelf.items():
        if wanted.lower() in (path.stem.lower(), *(name.lower() for name in model.names)):
            return model
    if is_path(wanted) and Path(absolute(wanted, Path("x"))).is_dir():
        return plain(wanted)
    if wanted.count("/") == 1 and not is_path(wanted):
        return plain(wanted)
    known = [path.stem for path in configs.glob("*.yaml")]
    raise ConfigError(
        f"no model {wanted!r}{nearest(wanted, known)}; give a config's name (`ls configs`), a"
        " YAML's path, a Hugging Face id (`org/name`) or a model's folder"
    )


def _path(wanted: str) -> Path:
    try:
        return Path(wanted).expanduser()
    except RuntimeError as error:  # `~name` of nobody
        raise ConfigError(f"{wanted}: {error}") from error


def plain(model: str) -> Model:
    """A spec for a model without a YAML: a cross-encoder with one logit, vLLM's own defaults."""
    short = model.rstrip("/").rsplit("/", 1)[-1]
    names = (short,) if is_path(model) else (short, model)  # a path is nobody's name
    return Model(model=model, names=names, vllm={"runner": "pooling"})


def find_stack(wanted: str, configs: Path = CONFIGS) -> Path | None:
    """The stack's YAML that `wanted` means, by path or name, if it means one."""
    if wanted.endswith((".yaml", ".yml")):
        path = _path(wanted)
        return path if path.is_file() and is_stack(path) else None
    named = (path for path in configs.glob("*.yaml") if path.stem.lower() == wanted.lower())
    return next(filter(is_stack, named), None)


def is_stack(path: Path) -> bool:
    """Whether a YAML names several models rather than one."""
    root = compose(path)
    return isinstance(root, yaml.MappingNode) and "models" in Reader(path).entries(root)


def load_all(configs: Path) -> dict[Path, Model]:
    """Every model's YAML of a folder. Raises ConfigError when two of them answer to one name."""
    paths = sorted(configs.glob("*.yaml"))
    shelf = {path: load(path) for path in paths if not is_stack(path)}
    owner: dict[str, Path] = {path.stem.lower(): path for path in paths if path not in shelf}
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
