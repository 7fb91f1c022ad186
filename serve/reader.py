"""A YAML file as typed dataclasses: every error says which file, which line and what to write."""

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from serve.errors import ConfigError


def compose(path: Path) -> yaml.Node:
    """The YAML file as a tree of nodes, which know their lines. Raises ConfigError."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot be read: {error}", str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"is not YAML: {problem}", f"{path}{line}") from error
    if node is None:
        raise ConfigError("is empty", str(path))
    return node


def nearest(key: str, known: Iterable[str]) -> str:
    """` (nearest: 'x')` for the known word that `key` most looks like, or nothing."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f" (nearest: {close[0]!r})" if close else ""


@dataclass(frozen=True)
class Reader:
    """Turns the nodes of the YAML file at `path` into typed values, or raises ConfigError."""

    path: Path

    def at(self, node: yaml.Node) -> str:
        """`file:line` of a node."""
        return f"{self.path}:{node.start_mark.line + 1}"

    def entries(self, node: yaml.Node) -> dict[str, yaml.Node]:
        """The value nodes of a mapping, by key."""
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError("expected a mapping, lines of `key: value`", self.at(node))
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a key must be a plain word", self.at(key))
            if key.value in found:
                raise ConfigError(f"{key.value}: stands twice", self.at(key))
            found[key.value] = value
        return found

    def build(self, cls: type[Any], node: yaml.Node, where: str = "") -> Any:
        """An instance of the dataclass `cls` from a mapping node; `where` is the path to it."""
        known, hints = {f.name: f for f in fields(cls)}, typing.get_type_hints(cls)
        given = self.entries(node)
        for key, value in given.items():
            if key not in known:
                words = f"unknown key {where + key!r}{nearest(key, known)}"
                raise ConfigError(f"{words}; known: {', '.join(known)}", self.at(value))
        for key, entry in known.items():
            if key not in given and entry.default is entry.default_factory is MISSING:
                raise ConfigError(f"{where}{key}: is missing", self.at(node))
        values = {key: self.value(value, hints[key], where + key) for key, value in given.items()}
        for key, value in values.items():
            least = known[key].metadata.get("min")
            if least is None or value is None:
                continue
            if not least <= value < math.inf:  # nor is NaN
                raise ConfigError(f"{where}{key}: must be at least {least}", self.at(given[key]))
            most = known[key].metadata.get("max", value)
            if value > most:
                raise ConfigError(f"{where}{key}: must be at most {most}", self.at(given[key]))
        return cls(**values)

    def value(self, node: yaml.Node, hint: Any, name: str) -> Any:
        """The value of one node, of the type that `hint` annotates."""
        if is_dataclass(hint):
            short = getattr(hint, "SHORTHAND", None)  # the field that a plain value stands for
            if short and isinstance(node, yaml.ScalarNode):
                kind = typing.get_type_hints(hint)[short]
                return typing.cast("type[Any]", hint)(**{short: self.value(node, kind, name)})
            if isinstance(node, yaml.ScalarNode) and self.plain(node) is None:  # `key:` alone
                node = yaml.MappingNode("", [], node.start_mark, node.end_mark)
            return self.build(typing.cast("type[Any]", hint), node, f"{name}.")
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is types.UnionType and isinstance(node, yaml.MappingNode):
            hint = next(filter(is_dataclass, arguments), hint)  # of `Cascade | None`, say
            if is_dataclass(hint):
                return self.value(node, hint, name)
        if origin is Mapping:
            entries = self.entries(node).items()
            return {key: self.value(item, arguments[1], f"{name}.{key}") for key, item in entries}
        if origin is Sequence and isinstance(node, yaml.SequenceNode) and node.value:
            return tuple(
                self.value(item, arguments[0], f"{name}[{index}]")
                for index, item in enumerate(node.value)
            )
        plain = self.plain(node)
        if hint is object or (origin is Literal and plain in arguments):
            return plain
        for kind in arguments if origin is types.UnionType else (hint,):
            if kind is float and type(plain) is int:
                return float(plain)
            if type(plain) is kind:
                return plain
        raise ConfigError(f"{name}: must be {_describe(hint)}, not {plain!r}", self.at(node))

    def plain(self, node: yaml.Node) -> Any:
        """The node as plain Python data, by YAML's own rules."""
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"cannot be read: {error}", self.at(node)) from error
        finally:
            loader.dispose()


def _describe(hint: Any) -> str:
    """The type in a user's words."""
    arguments = typing.get_args(hint)
    if is_dataclass(hint):
        return "a mapping of " + ", ".join(field.name for field in fields(hint))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(arguments)
    if typing.get_origin(hint) is Sequence:
        return "a list of strings, one at least"
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(_describe(kind) for kind in arguments if kind is not type(None))
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    return words[hint]
