"""Pure: what a measurement comes to, in rows for people, figures with what is wanted, charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Row = Mapping[str, object]
Point = tuple[float, float]


class UsageError(Exception):
    """What was asked for cannot be measured: which option, and the remedy. Exit status 2."""


class MeasureError(Exception):
    """A measurement that came to nothing: why. Exit status 1; others go on."""


@dataclass(frozen=True)
class Figure:
    """One number that was aimed at: `value` should be at least, or at most, `wanted`.

    `why` explains what is missing, where something is.
    """

    name: str
    value: float
    wanted: float
    is_least: bool = True
    why: str = ""

    @property
    def is_reached(self) -> bool:
        return self.value >= self.wanted if self.is_least else self.value <= self.wanted


@dataclass(frozen=True)
class Chart:
    """Series of points (`lines`) or one bar for each name (`bars`: the y of its only point)."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[Point]]
    kind: Literal["lines", "bars"] = "lines"
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Outcome:
    """One measurement: `name` is a word, `words` say what was compared, and how.

    `rows` have the same keys. `details` are for the JSON alone.
    """

    name: str
    words: str
    rows: Sequence[Row]
    figures: Sequence[Figure] = ()
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict)
