"""The reliability diagram: what a probability says, against how often it is so."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.calibration import Floats, Ints, bins, ece

DOTS_PER_INCH = 150
Z = 1.96  # of 95 %


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of the diagram. It differs from the others in marker, dash and hatch, not in
    colour alone."""

    name: str
    probabilities: Floats
    colour: str
    marker: str
    dash: str
    hatch: str


def draw(before: Floats, after: Floats, labels: Ints, *, title: str) -> bytes:
    """A PNG: reliability of both, with the histogram of their probabilities below."""
    curves = (
        Curve("uncalibrated", before, "#c8500a", "s", "--", "///"),
        Curve("calibrated", after, "#0a58a8", "o", "-", ""),
    )
    figure = Figure(figsize=(6.4, 7.6), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)  # writes files without a display
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _reliability(upper, curves, labels)
    _histogram(lower, curves)
    figure.suptitle(title, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _reliability(axes: Axes, curves: Sequence[Curve], labels: Ints) -> None:
    axes.plot([0, 1], [0, 1], color="0.35", linewidth=1.3, linestyle=":", label="perfect")
    for curve in curves:
        found = bins(curve.probabilities, labels)
        spans = [_wilson(one.share, one.pairs) for one in found]
        axes.errorbar(
            [one.probability for one in found],
            [one.share for one in found],
            yerr=[
                [max(0.0, one.share - low) for one, (low, _) in zip(found, spans, strict=True)],
                [max(0.0, high - one.share) for one, (_, high) in zip(found, spans, strict=True)],
            ],
            color=curve.colour,
            marker=curve.marker,
            linestyle=curve.dash,
            markerfacecolor="white" if curve.hatch else curve.colour,
            markersize=7,
            linewidth=1.6,
            elinewidth=0.9,
            capsize=2.5,
            label=f"{curve.name} (ECE {ece(curve.probabilities, labels):.3f})",
        )
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share of relevant pairs (95 % interval)"
    )
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=True, fontsize=9)


def _histogram(axes: Axes, curves: Sequence[Curve]) -> None:
    """Pairs in ten equal parts of 0..1, both curves side by side, each bar with its count."""
    for place, curve in enumerate(curves):
        counts = [0] * 10
        for value in curve.probabilities:
            counts[min(9, int(value * 10))] += 1
        bars = axes.bar(
            [0.1 * part + 0.03 + 0.04 * place for part in range(10)],
            counts,
            width=0.036,
            color="white" if curve.hatch else curve.colour,
            edgecolor=curve.colour,
            hatch=curve.hatch,
            label=curve.name,
        )
        axes.bar_label(bars, [str(count or "") for count in counts], fontsize=6.5, padding=1)
    axes.set(xlabel="score, as a probability", ylabel="pairs")
    axes.set_xticks([0.1 * part for part in range(11)])
    axes.margins(y=0.18)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _wilson(share: float, pairs: int) -> tuple[float, float]:
    """The 95 % interval of a share of `pairs` (Wilson 1927)."""
    middle = (share + Z * Z / (2 * pairs)) / (1 + Z * Z / pairs)
    spread = share * (1 - share) / pairs + Z * Z / (4 * pairs * pairs)
    half = Z * spread**0.5 / (1 + Z * Z / pairs)
    return middle - half, middle + half
