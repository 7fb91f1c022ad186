"""A calibration as people and programs read it: table, snippet, warnings, files."""

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.calibration import RESAMPLES, Fit, Intervals, Quality

WIDE = 0.2  # of a probability's 95 % interval


@dataclass(frozen=True, slots=True)
class Result:
    """A fit and its figures; `calibrated` is of held-out queries, `fit` of all of them."""

    fit: Fit
    intervals: Intervals
    uncalibrated: Quality
    calibrated: Quality
    of: str
    pairs: int
    queries: int
    relevant: int
    folds: int
    command: Sequence[str] = ()


def table(result: Result) -> str:
    """The figures before and after, aligned."""
    rows = (
        ("Brier score", "brier"),
        ("log loss", "log_loss"),
        ("ECE (10 equal-mass bins)", "ece"),
        ("ROC AUC", "auc"),
    )
    lines = [f"{'held-out queries':<26}{'uncalibrated':>14}{'calibrated':>14}"]
    for title, name in rows:
        before, after = (getattr(q, name) for q in (result.uncalibrated, result.calibrated))
        lines.append(f"{title:<26}{before:>14.4f}{after:>14.4f}")
    return "\n".join(lines)


def snippet(result: Result) -> str:
    """The lines to paste into the model's YAML."""
    share = 100 * result.relevant / result.pairs
    command = "".join(c if c.isprintable() else "?" for c in shlex.join(result.command))
    intervals = result.intervals
    numbers = f"temperature: {_number(result.fit.temperature)}, bias: {_number(result.fit.bias)}"
    return (
        "# Platt scaling: score = 1 / (1 + exp(-(x / temperature + bias))), x the raw value.\n"
        f"# Fitted to {result.pairs} pairs of {result.queries} queries, {share:.1f} % of them"
        " relevant, by\n"
        f"#   {command}\n"
        f"# 95 % intervals: temperature {_span(intervals.temperature)}, bias"
        f" {_span(intervals.bias)},\n"
        f"# a probability at worst {_span(intervals.widest)}\n"
        f"score: {{of: {result.of}, {numbers}}}\n"
    )


def _number(value: float) -> str:
    """Six digits, never with an exponent, which YAML 1.1 would take for a text."""
    return np.format_float_positional(value, precision=6, fractional=False, trim="0")


def _span(interval: tuple[float, float] | None) -> str:
    return "unknown" if interval is None else "{:.4g} to {:.4g}".format(*interval)


def warnings(result: Result) -> list[str]:
    """What makes this fit unsure, or useless."""
    found = []
    spans = result.intervals
    more = "label more queries"
    if spans.failed:
        found.append(f"{spans.failed} of {RESAMPLES} resamples could not be fitted: {more}")
    if spans.widest and spans.widest[1] - spans.widest[0] > WIDE:
        low, high = spans.widest
        found.append(f"the fit is unsure, at worst {low:.2f} to {high:.2f} for one pair: {more}")
    if result.calibrated.log_loss >= result.uncalibrated.log_loss:
        found.append("held-out queries are not better calibrated than without: do not use it")
    return found


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files`, by name, into `folder`: each is there whole or as it was before.

    All are written beside their places before the first is put there. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
        for name, content in files.items():
            with (Path(new) / name).open("wb") as file:
                file.write(content)
                os.fsync(file.fileno())
        for name in files:
            (Path(new) / name).replace(folder / name)
