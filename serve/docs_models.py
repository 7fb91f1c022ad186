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
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"] if value)
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    types = schema.get("type", "")
    return escape(types if isinstance(types, str) else " or ".join(types))


def answers(schema: Json) -> str:
    """The fields of an answer as a table: `results[].index` is one of an item of `results`."""
    rows = [
        (
            code(name) + ("" if always else tag("small", "not always")),
            _kind(field),
            prose(_words(field)),
        )
        for name, field, always in _flat("", schema, always=True)
    ]
    return table(("Field", "Type", "Meaning"), rows)


def _flat(name: str, schema: Json, *, always: bool) -> Iterator[tuple[str, Json, bool]]:
    """Every field at and below a schema: its whole name, what it is, and whether it is always in
    what holds it. What holds others is there by itself only if it has words of its own."""
    if schema.get("type") == "array":
        yield from _flat(f"{name}[]", schema["items"], always=always)
        return
    inner = schema.get("properties", {})
    if not inner or "description" in schema or not always:
        yield name, schema, always
    for field, of in inner.items():
        whole = f"{name}.{field}" if name else field
        yield from _flat(whole, of, always=field in schema["required"])
