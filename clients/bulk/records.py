"""Pure: rows to records. A record is one query with its passages.

Rows come in three shapes, which one file may mix:

- `{query, passages: ["…", {id, text}, …]}`: a record by itself;
- `{query, passage}`: consecutive rows of the same `query` and `query_id` make a record;
- `{query, candidates: [id, …]}`, or no candidates for all, where passages stand in a corpus.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from clients.wire import is_unicode

FIELDS = frozenset(  # that mean something; others are ignored
    ("query", "query_id", "passages", "passage", "passage_id", "candidates", "id", "text")
)
Id = str | int | None
Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and its id, None where the input gives none."""

    text: str
    id: Id = None


@dataclass(frozen=True, slots=True)
class Record:
    """One query with its passages, and where it stands: `file:line`."""

    where: str
    query: str
    query_id: Id
    passages: Sequence[Passage]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table with its fields, and where it stands."""

    where: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Bad:
    """A line that cannot be used, and why."""

    where: str
    reason: str


# The passages of some candidates, or of None for all. Raises Unusable.
Lookup = Callable[[Sequence[str] | None], Sequence[Passage]]


class Unusable(Exception):
    """Why a row cannot be used."""


def records(rows: Iterable[Row | Bad], lookup: Lookup | None = None) -> Iterator[Record | Bad]:
    """The records of rows, in their order; with a `lookup` every row is a query of a corpus.

    A bad row among those of one query is told before its record, which goes on without it.
    """
    group: Record | None = None
    for row in rows:
        if isinstance(row, Bad):
            yield row
            continue
        try:
            record = _record(row, lookup)
        except Unusable as error:
            yield Bad(row.where, str(error))
            continue
        is_flat = lookup is None and "passages" not in row.fields
        if is_flat and group and _key(group) == _key(record):
            group.passages.extend(record.passages)  # type: ignore[attr-defined]  # our own list
            continue
        if group:
            yield group
        group = record if is_flat else None
        if not is_flat:
            yield record
    if group:
        yield group


def _key(record: Record) -> tuple[str, str, Id]:
    return record.query, type(record.query_id).__name__, record.query_id


def _record(row: Row, lookup: Lookup | None) -> Record:
    fields = row.fields
    query = _text(fields, "query")
    query_id = _id(fields.get("query_id"), "query_id")
    return Record(row.where, query, query_id, _passages(fields, lookup))


def _passages(fields: Fields, lookup: Lookup | None) -> Sequence[Passage]:
    own = [name for name in ("passages", "passage") if name in fields]
    if lookup is not None:
        if any(fields[name] not in (None, "") for name in own):  # an empty cell is none
            raise Unusable("it has own passages, and --passages was given: use one")
        return lookup(_candidates(fields))
    chosen = ["candidates"] if fields.get("candidates") is not None else []
    if own and len(own + chosen) > 1:
        raise Unusable(f"it has both `{own[0]}` and `{(own + chosen)[1]}`: keep one")
    if "passages" in fields:
        items = _list(fields["passages"], "passages")
        return [_passage(item, f"passages[{index}]") for index, item in enumerate(items)]
    if "passage" in fields:
        return [Passage(_text(fields, "passage"), _id(fields.get("passage_id"), "passage_id"))]
    if "candidates" in fields:
        raise Unusable("it has `candidates`: name the file of their texts with --passages")
    raise Unusable("it has neither `passages` nor `passage`")


def _candidates(fields: Fields) -> Sequence[str] | None:
    if fields.get("candidates") is None:
        return None
    ids = [_id(item, "candidates") for item in _list(fields["candidates"], "candidates")]
    if None in ids:
        raise Unusable("candidates has a null: it must be a list of ids")
    texts = [str(id) for id in ids]
    if len(set(texts)) < len(texts):
        twice = next(id for index, id in enumerate(texts) if id in texts[:index])
        raise Unusable(f"candidates names {twice!r} twice")
    return texts


def corpus_passage(fields: Fields) -> tuple[str, str]:
    """Id and text of a corpus's row: `{id, text}` or `{passage_id, passage}`. Raises Unusable."""
    name = "passage_id" if "passage_id" in fields else "id"
    id = _id(fields.get(name), name)
    if id is None:
        raise Unusable("it has no `id`")
    return str(id), _text(fields, "passage" if "passage" in fields else "text")


def _passage(item: object, name: str) -> Passage:
    if isinstance(item, Mapping):
        return Passage(_text(item, "text", f"{name}."), _id(item.get("id"), f"{name}.id"))
    if not isinstance(item, str):
        raise Unusable(f"{name} must be a string or {{id, text}}; it is {_kind(item)}")
    return Passage(_checked(item, name))


def _list(value: object, name: str) -> list[object]:
    """A list, also as the JSON in a cell of a table that has no lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable(f"{name} must be a list (in csv and tsv: as JSON)") from None
    if not isinstance(value, list):
        raise Unusable(f"{name} must be a list; it is {_kind(value)}")
    if not value:
        raise Unusable(f"{name} is empty")
    return value


def _text(fields: Fields, name: str, prefix: str = "") -> str:
    if fields.get(name) is None:
        raise Unusable(f"it has no `{prefix}{name}`")
    return _checked(fields[name], prefix + name)


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Unusable(f"{name} must be a string; it is {_kind(value)}")
    if not is_unicode(value):
        raise Unusable(f"{name} is not valid Unicode")
    return value


def _id(value: object, name: str) -> Id:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return _checked(value, name)
    raise Unusable(f"{name} must be a string or a whole number; it is {_kind(value)}")


def _kind(value: object) -> str:
    kinds = {str: "a string", dict: "an object", list: "a list", bool: "a boolean"}
    kinds |= {int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), f"of type {type(value).__name__}")  # parquet has many more
