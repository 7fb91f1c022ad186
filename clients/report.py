"""What a comparison found: its rows and checks, as a table and as JSON. Pure."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

PASSAGE_COLUMNS = 48  # of a terminal, for a passage in the table
NAMED = 3  # failures of one check that its line names; the JSON has them all


@dataclass(frozen=True)
class Check:
    """One check by its name: what holds, in words, or each thing that does not."""

    name: str
    holds: str
    failures: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        return not self.failures

    def line(self) -> str:
        """The verdict on one line."""
        if self.ok:
            return f"PASS  {self.name}: {self.holds}"
        more = f"; and {len(self.failures) - NAMED} more" * (len(self.failures) > NAMED)
        return f"FAIL  {self.name}: {'; '.join(self.failures[:NAMED])}{more}"


@dataclass(frozen=True)
class Row:
    """A passage of the example with this number (from 1): the score expected and the one given."""

    example: int
    query: str
    passage: str
    expected: float
    got: float
    ok: bool

    @property
    def short(self) -> str:
        """The passage, fit for a column."""
        return shorten(self.passage, PASSAGE_COLUMNS)

    def as_json(self) -> dict[str, object]:
        return {
            "example": self.example,
            "passage": self.passage,
            "expected": _json_number(self.expected),
            "got": _json_number(self.got),
            "ok": self.ok,
        }


@dataclass(frozen=True)
class Report:
    """What was compared, by which tolerance (score units), and what came of it."""

    model: str
    dtype: str  # what the server computes in; the reference's if it does not tell
    reference_dtype: str
    source: str
    tolerance: float
    rows: Sequence[Row]
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """Every single thing that does not hold, each with the name of its check."""
        return [f"{check.name}: {text}" for check in self.checks for text in check.failures]

    def table(self) -> str:
        """A line for each passage under its query, then one for each check."""
        lines = [
            f"{self.model} in {self.dtype}, against scores in {self.reference_dtype}",
            f"reference: {self.source or 'source not told'}",
        ]
        shown = 0
        for row in self.rows:
            if row.example != shown:
                shown = row.example
                head = pad(shorten(row.query, PASSAGE_COLUMNS), PASSAGE_COLUMNS)
                lines += ["", f"{head}    expected         got  difference"]
            numbers = f"{row.expected:10.8f}  {row.got:10.8f}  {row.got - row.expected:+10.1e}"
            verdict = "PASS" if row.ok else "FAIL"
            lines.append(f"{pad(row.short, PASSAGE_COLUMNS)}  {numbers}  {verdict}")
        return "\n".join([*lines, "", *(check.line() for check in self.checks)])

    def as_json(self) -> dict[str, object]:
        """The whole report in JSON's types."""
        return {
            "ok": self.ok,
            "model": self.model,
            "dtype": self.dtype,
            "reference_dtype": self.reference_dtype,
            "source": self.source,
            "tolerance": self.tolerance,
            "checks": [
                {"name": check.name, "ok": check.ok, "failures": list(check.failures)}
                for check in self.checks
            ],
            "rows": [row.as_json() for row in self.rows],
        }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def width(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese characters take two, accents none."""
    return sum(
        0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
        for sign in text
    )


def shorten(text: str, columns: int) -> str:
    """The text on one line, nothing in it that moves a terminal's cursor, cut to `columns`."""
    line = " ".join(text.split())
    line = "".join(sign if sign.isprintable() else "?" for sign in line)
    if width(line) <= columns:
        return line
    while width(line) > columns - 1:
        line = line[: min(len(line) - 1, columns)]
    return line + "…"


def pad(text: str, columns: int) -> str:
    """The text with spaces after it, to `columns`."""
    return text + " " * (columns - width(text))
