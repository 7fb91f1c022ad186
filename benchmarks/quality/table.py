"""Rankings and what they took as rows, charts and notes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.outcome import Chart, Outcome, Row
from benchmarks.quality.ask import Cost
from benchmarks.quality.measures import MAIN, RESAMPLES, Estimate, Floats, estimate

NONE = "–"


@dataclass(frozen=True, slots=True)
class System:
    """One ranking of all queries: its values by measure, query by query, and what it took."""

    name: str
    values: Mapping[str, Floats]
    cost: Cost | None = None  # None of the first stage


@dataclass(frozen=True, slots=True)
class Compared:
    """A system's mean of one measure, and its difference to the first stage."""

    system: System
    measure: str
    value: Estimate
    difference: Estimate | None  # None of the first stage


def outcomes(
    first: System, models: Sequence[System], *, words: str, notes: Sequence[str], seed: int
) -> list[Outcome]:
    """How good the first stage and the models are, and what the models took."""
    compared = [
        _compare(system, first, measure, seed)
        for measure in first.values
        for system in (first, *models)
    ]
    main = [one for one in compared if one.measure == MAIN]
    quality = Outcome(
        "quality",
        f"{words}; intervals of 95 % by {RESAMPLES:,} bootstrap resamples of the queries, a"
        " difference is significant where its interval leaves out 0",
        [_row(one) for one in compared],
        charts=[_bars(main)],
        notes=[*notes, *_against_the_best(main[1:], seed)],
        details={"systems": [_details(one) for one in compared]},
    )
    cost = Outcome(
        "cost",
        "what the models took, beside how good they are; latencies are of one query's documents",
        [_cost_row(one, one.system.cost) for one in main],
        charts=[_points(main[1:])] if len(models) > 1 else [],
    )
    return [quality, cost]


def _compare(system: System, first: System, measure: str, seed: int) -> Compared:
    values = system.values[measure]
    is_first = system is first
    difference = None if is_first else estimate(values - first.values[measure], seed)
    return Compared(system, measure, estimate(values, seed), difference)


def _row(one: Compared) -> Row:
    difference = one.difference
    return {
        "measure": one.measure,
        "model": one.system.name,
        "mean": f"{one.value.mean:.4f}",
        "95 %": _span(one.value),
        "to first stage": f"{difference.mean:+.4f}" if difference else NONE,
        "95 % of it": _span(difference, "+") if difference else NONE,
        "significant": _significant(difference),
    }


def _cost_row(one: Compared, cost: Cost | None) -> Row:
    row = {"model": one.system.name, MAIN: f"{one.value.mean:.4f}"}
    row |= {"significant": _significant(one.difference)}
    names = ("pairs", "cut", "seconds", "pairs/s", "p50 ms", "p95 ms", "tokens")
    if cost is None:
        return row | dict.fromkeys(names, NONE)
    median, late = np.percentile(cost.latencies, (50, 95)) * 1000
    told = (
        f"{cost.pairs:,}",
        f"{cost.cut:,}",
        f"{cost.seconds:.1f}",
        f"{_rate(cost):.1f}",
        f"{median:.0f}",
        f"{late:.0f}",
        NONE if cost.tokens is None else f"{cost.tokens:,}",
    )
    return row | dict(zip(names, told, strict=True))


def _rate(cost: Cost) -> float:
    return cost.pairs / cost.seconds


def _span(estimate: Estimate, sign: str = "") -> str:
    if estimate.span is None:
        return NONE
    low, high = (format(end, f"{sign}.4f") for end in estimate.span)
    return f"{low} to {high}"


def _significant(difference: Estimate | None) -> str:
    is_sure = difference and difference.is_significant
    return NONE if is_sure is None else "yes" if is_sure else "no"


def _against_the_best(models: Sequence[Compared], seed: int) -> list[str]:
    """Whether the best model is surely better than each other one."""
    if len(models) < 2:
        return []
    best, *others = sorted(models, key=lambda one: -one.value.mean)
    notes = []
    for other in others:
        found = estimate(best.system.values[MAIN] - other.system.values[MAIN], seed)
        surely = "significant" if found.is_significant else "not significant"
        notes.append(
            f"{best.system.name} against {other.system.name}: {MAIN} {found.mean:+.4f}"
            f" ({_span(found, '+')}), {surely}"
        )
    return notes


def _bars(main: Sequence[Compared]) -> Chart:
    bars = {one.system.name: [(0.0, one.value.mean)] for one in main}
    return Chart(f"{MAIN} by model", "model", MAIN, bars, kind="bars")


def _points(models: Sequence[Compared]) -> Chart:
    points = {
        one.system.name: [(_rate(one.system.cost), one.value.mean)]
        for one in models
        if one.system.cost
    }
    return Chart("Quality against speed", "pairs/s", MAIN, points)


def _details(one: Compared) -> Mapping[str, object]:
    found: dict[str, object] = {"model": one.system.name, "measure": one.measure}
    found |= {"mean": one.value.mean, "interval": one.value.span}
    if one.difference:
        found |= {"difference": one.difference.mean, "difference_interval": one.difference.span}
    return found
