"""Charts drawn by matplotlib: PNGs for a folder, and SVGs for light and dark pages."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.outcome import Chart

SIZE = (6.2, 3.7)  # inches
DOTS_PER_INCH = 150
# Lines differ in marker and dash too, not in colour alone.
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
FEW = 24  # points, each of which gets a marker
MOST_TICKS = 8


@dataclass(frozen=True, slots=True)
class Paper:
    """Colours of a page: of itself, its words, its lines, and of series."""

    back: str
    ink: str
    soft: str
    grid: str
    series: tuple[str, ...]


LIGHT = Paper(
    "#ffffff",
    "#1c2430",
    "#566073",
    "#e3e7ee",
    ("#1f5fbf", "#c4500b", "#0b7a55", "#8a3ab9", "#b0123f", "#5d6678", "#8a6a00", "#007a99"),
)
DARK = Paper(
    "#171c24",
    "#e8ecf2",
    "#a4afc0",
    "#313a48",
    ("#7db2ff", "#ff9d57", "#4fd1a1", "#cf9bf5", "#ff7d9c", "#b6c0d0", "#e2c04f", "#59cbe8"),
)


def png(chart: Chart) -> bytes:
    """For people who take one chart elsewhere: light."""
    return _save(_draw(chart, LIGHT), "png")


def svg(chart: Chart, paper: Paper) -> bytes:
    """Sharp at any size; its words are outlines, so that it needs no font."""
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": f"chart {chart.title}"}):
        return _save(_draw(chart, paper), "svg")


def _save(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    figure.savefig(content, format=kind, metadata=metadata, facecolor=figure.get_facecolor())
    return content.getvalue()


def _draw(chart: Chart, paper: Paper) -> Figure:
    figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained", facecolor=paper.back)
    FigureCanvasAgg(figure)  # writes files without a display
    axes = figure.subplots()
    axes.set_facecolor(paper.back)
    if chart.kind == "bars":
        _bars(axes, chart, paper)
    else:
        _lines(axes, chart, paper)
    axes.set_title(chart.title, color=paper.ink, fontsize=12, fontweight="bold", loc="left", pad=10)
    axes.set_xlabel(chart.x, color=paper.soft)
    axes.set_ylabel(chart.y, color=paper.soft)
    axes.tick_params(colors=paper.soft, which="both", length=0, labelsize=9)
    axes.grid(color=paper.grid, linewidth=0.9, axis="y" if chart.kind == "bars" else "both")
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(paper.soft)
    return figure


def _lines(axes: Axes, chart: Chart, paper: Paper) -> None:
    for place, (name, points) in enumerate(chart.series.items()):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            color=paper.series[place % len(paper.series)],
            marker=MARKERS[place % len(MARKERS)] if len(points) <= FEW else None,
            linestyle=DASHES[place % len(DASHES)],
            markersize=5.5,
            linewidth=1.8,
        )
    values = [point for points in chart.series.values() for point in points]
    _scale(axes, "x", chart.log_x, [x for x, _ in values])
    _scale(axes, "y", chart.log_y, [y for _, y in values])
    if len(chart.series) > 1:
        axes.legend(frameon=False, labelcolor=paper.ink, fontsize=9)


def _scale(axes: Axes, side: str, is_log: bool, values: Sequence[float]) -> None:
    """Plain numbers at the ticks; along x the values themselves, where they are few."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    if is_log and _is_wide(values):
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        axis.set_minor_formatter(NullFormatter())
        if max(values) < 500 * min(values):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    elif side == "y" and values:
        low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        axes.set_ylim(low, high + 0.08 * (high - low or 1.0))
    places = sorted(set(values))
    if side == "x" and 1 < len(places) <= MOST_TICKS:
        axis.set_ticks(places)
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _is_wide(values: Sequence[float]) -> bool:
    """Whether a logarithmic scale shows more than one from 0 does."""
    return bool(values) and min(values) > 0 and max(values) >= 8 * min(values)


def _bars(axes: Axes, chart: Chart, paper: Paper) -> None:
    names = list(chart.series)
    heights = [points[0][1] for points in chart.series.values()]
    colours = [paper.series[place % len(paper.series)] for place in range(len(names))]
    bars = axes.barh(names[::-1], heights[::-1], color=colours[::-1], height=0.62)
    axes.bar_label(bars, fmt="{:,.4g}", color=paper.ink, padding=4, fontsize=9)
    axes.margins(x=0.14)
    if chart.log_y and _is_wide(heights):
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
