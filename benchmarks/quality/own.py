"""Reads passages of one's own: JSON lines, each a query with its passages and their grades."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.outcome import UsageError
from benchmarks.quality.collection import Collection
from benchmarks.quality.files import json_lines
from clients.wire import is_unicode

FORMS = (
    '{"query", "passages", "relevant"}, {"query", "passages", "labels"} or'
    ' {"query", "passage", "label"}'
)
PER_PASSAGE = ("labels", "grades")


def read(path: Path) -> Collection:
    """Lines of the same query belong together. Raises UsageError."""
    found: dict[str, list[tuple[str, int]]] = {}
    for where, fields in json_lines(path):
        line = _Line(where, fields)
        found.setdefault(line.text("query", line.get("query")), []).extend(line.passages())
    if not found:
        raise UsageError(f"{path} is empty: a line is {FORMS}")
    numbered = [(str(number), *item) for number, item in enumerate(found.items(), 1)]
    return Collection(
        queries={id: query for id, query, _ in numbered},
        texts={f"{id}.{n}": text for id, _, items in numbered for n, (text, _) in enumerate(items)},
        grades={
            id: {f"{id}.{n}": grade for n, (_, grade) in enumerate(items)}
            for id, _, items in numbered
        },
        own={id: [f"{id}.{n}" for n in range(len(items))] for id, _, items in numbered},
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """One object of the file, and where it stands."""

    where: str
    fields: Mapping[str, object]

    def error(self, field: str, what: str) -> UsageError:
        return UsageError(f"{self.where}: {field}: {what}")

    def get(self, field: str) -> object:
        if field not in self.fields:
            raise self.error(field, f"missing: a line is {FORMS}")
        return self.fields[field]

    def text(self, field: str, value: object) -> str:
        if not isinstance(value, str) or not is_unicode(value):
            raise self.error(field, "a text in quotes is needed, of valid Unicode")
        return value

    def items(self, field: str) -> Sequence[object]:
        value = self.get(field)
        if not isinstance(value, list):
            raise self.error(field, "a list is needed")
        return value

    def grade(self, field: str, value: object) -> int:
        if not isinstance(value, int | float) or value != value // 1:
            raise self.error(field, f"the grade {value!r} is no whole number: round it")
        return int(value)

    def passages(self) -> list[tuple[str, int]]:
        """The line's passages with their grades."""
        if "passages" not in self.fields:
            text = self.text("passage", self.get("passage"))
            return [(text, self.grade("label", self.get("label")))]
        items = self.items("passages")
        texts = [self.text(f"passages[{n}]", item) for n, item in enumerate(items)]
        if not texts:
            raise self.error("passages", "it is empty: leave the line out")
        return list(zip(texts, self.grades(len(texts)), strict=True))

    def grades(self, count: int) -> list[int]:
        """One for each of `count` passages: as given, or 1 for those that `relevant` names."""
        given = [name for name in ("relevant", *PER_PASSAGE) if name in self.fields]
        if len(given) != 1:
            raise self.error(
                " and ".join(given) or "relevant",
                f"{'keep one of them' if given else 'missing'}: a line is {FORMS}",
            )
        name = given[0]
        items = self.items(name)
        if name == "relevant":
            return self.marked(items, count)
        if len(items) != count:
            raise self.error(name, f"{len(items)} for {count} passages: give one for each")
        return [self.grade(f"{name}[{n}]", item) for n, item in enumerate(items)]

    def marked(self, items: Sequence[object], count: int) -> list[int]:
        for n, item in enumerate(items):
            if type(item) is not int or not 0 <= item < count:
                raise self.error(
                    f"relevant[{n}]", f"{item!r} is no index of the {count} passages, from 0 on"
                )
        return [int(n in items) for n in range(count)]
