"""Labelled pairs from JSON lines: one pair a line, or one query with its passages."""

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

FEWEST_PAIRS = 20
FEWEST_OF_A_CLASS = 5
LARGEST_RAW = 1e6  # no model gives such a logit; it is a mistake in the file
FORMS = '{"query", "passage", "label"} or {"query", "passages", "labels"}'


class InputError(Exception):
    """A mistake in the labelled pairs: file, line, field and remedy."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, a passage, whether it is relevant, and the engine's raw value if the file has it."""

    query: str
    passage: str
    relevant: bool
    raw: float | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """One object of the file, and where it stands."""

    place: str
    fields: Mapping[str, object]
    threshold: float | None

    def error(self, field: str, what: str) -> InputError:
        return InputError(f"{self.place}: {field}: {what}")

    def get(self, name: str) -> object:
        if name not in self.fields:
            near = difflib.get_close_matches(name, list(self.fields), 1)
            hint = f", is `{near[0]}` meant for it?" if near else ""
            raise self.error(name, f"missing{hint} A line is {FORMS}")
        return self.fields[name]

    def items(self, name: str) -> list[object]:
        value = self.get(name)
        if not isinstance(value, list):
            raise self.error(name, f"a list is needed, not {_show(value)}")
        return value

    def text(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.error(field, f"a text in quotes is needed, not {_show(value)}")
        return value

    def relevant(self, field: str, value: object) -> bool:
        """A label as yes or no: 0 and 1 as they are, a grade by the threshold."""
        if isinstance(value, bool):
            return value
        number = _finite(value)
        if number is None:
            raise self.error(field, f"0 or 1, true or false is needed, not {_show(value)}")
        if self.threshold is not None:
            return number >= self.threshold
        if number not in (0, 1):
            raise self.error(
                field, f"{_show(value)} is neither 0 nor 1: say with --threshold what is relevant"
            )
        return number == 1

    def raw(self, field: str, value: object) -> float:
        number = None if isinstance(value, bool) else _finite(value)
        if number is None or abs(number) > LARGEST_RAW:
            raise self.error(
                field,
                f"a number of -{LARGEST_RAW:g}..{LARGEST_RAW:g} is needed, not {_show(value)}",
            )
        return number


def read(lines: Iterable[bytes], name: str, *, threshold: float | None = None) -> list[Pair]:
    """The pairs of a file called `name`. Blank lines are passed over.

    A label that is a number counts as relevant from `threshold` on. Raises InputError.
    """
    pairs: list[Pair] = []
    has_raw: dict[bool, str] = {}  # the first place with a raw value, and the first without one
    for number, content in enumerate(lines, 1):
        if content.strip():
            line = _Line(f"{name}:{number}", _object(content, f"{name}:{number}"), threshold)
            has_raw.setdefault("raw" in line.fields, line.place)
            pairs += _pairs(line)
        if len(has_raw) == 2:
            raise InputError(
                f"{has_raw[False]}: raw: missing, but {has_raw[True]} has it: all lines or none"
            )
    _check_enough(pairs, name)
    return pairs


def _object(content: bytes, place: str) -> Mapping[str, object]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: not JSON ({error}): write one object a line, in UTF-8"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: an object is needed, not {_show(value)}: a line is {FORMS}")
    return value


def _pairs(line: _Line) -> Iterator[Pair]:
    query = line.text("query", line.get("query"))
    if "passages" not in line.fields:
        yield Pair(
            query,
            line.text("passage", line.get("passage")),
            line.relevant("label", line.get("label")),
            line.raw("raw", line.fields["raw"]) if "raw" in line.fields else None,
        )
        return
    names = ("passages", "labels", "raw")[: 3 if "raw" in line.fields else 2]
    columns = {name: line.items(name) for name in names}
    for name in names:
        if len(columns[name]) != len(columns["passages"]):
            counts = f"{len(columns[name])} for {len(columns['passages'])} passages"
            raise line.error(name, f"{counts}: give one for each passage")
    for index, passage in enumerate(columns["passages"]):
        yield Pair(
            query,
            line.text(f"passages[{index}]", passage),
            line.relevant(f"labels[{index}]", columns["labels"][index]),
            line.raw(f"raw[{index}]", columns["raw"][index]) if "raw" in columns else None,
        )


def _check_enough(pairs: list[Pair], name: str) -> None:
    if len(pairs) < FEWEST_PAIRS:
        raise InputError(
            f"{name}: {len(pairs)} pairs are too few: {FEWEST_PAIRS} are the least, a few hundred"
            " make a good fit"
        )
    relevant = sum(pair.relevant for pair in pairs)
    for kind, count in (("relevant", relevant), ("not relevant", len(pairs) - relevant)):
        if count < FEWEST_OF_A_CLASS:
            raise InputError(
                f"{name}: {count} of {len(pairs)} pairs are {kind}, {FEWEST_OF_A_CLASS} are the"
                " least: add some (or move --threshold)"
            )


def _finite(value: object) -> float | None:
    """`value` as a float, or None where it is no finite number."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "…"
