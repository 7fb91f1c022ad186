"""Pure: JSON Schemas as tables for people."""

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from serve.markup import code, link, prose, table, tag

Json = Mapping[str, Any]


def properties(schema: Json) -> Mapping[str, Json]:
    """All fields of a body, those that only some forms of it have before the others."""
    found: dict[str, Json] = {}
    for form in schema.get("anyOf", ()):
        found |= form["properties"]
    return {**found, **schema["properties"]}


def fields(named: Mapping[str, Json], required: Iterable[str]) -> str:
    """The fields of a body as a table."""
    rows = [
        (
            code(name) + (tag("small", "required") if name in required else ""),
            _kind(field),
            prose(_words(field)),
        )
        for name, field in named.items()
    ]
    return table(("Field", "Type", "Meaning"), rows)


def _words(field: Json) -> str:
    default = f" Default: `{json.dumps(field['default'])}`." if "default" in field else ""
    return str(field.get("description", "")) + default


def _kind(schema: Json) -> str:
    """A schema's type, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return link(f"#type-{name}", name)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_kind, schema["anyOf"]))))
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"] if value)
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    types = schema.get("type", "")
    return escape(types if isinstance(types, str) else " or ".join(types))


def answers(schema: Json) -> str:
    """The fields of an answer as a table: `results[].index` is one of an item of `results`."""
    rows = [(code(name or "[]"), _kind(of), prose(_words(of))) for name, of in _flat("", schema)]
    return table(("Field", "Type", "Meaning"), rows)


def _flat(name: str, schema: Json) -> Iterator[tuple[str, Json]]:
    """Every field below a schema by its whole name, those that hold others only through them."""
    if schema.get("type") == "array":
        yield from _flat(f"{name}[]", schema["items"])
    elif schema.get("properties"):
        for inner, of in schema["properties"].items():
            yield from _flat(f"{name}.{inner}" if name else inner, of)
    else:
        yield name, schema
