"""Measurements: a table for people each, JSON as the last line; with --out a report and charts.

`all` runs those that `make bench` prints. Exit status: 0 done, 1 a measurement came to nothing,
2 wrong arguments, 130 interrupted.
"""

import argparse
import json
import pkgutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks import publish
from benchmarks.labelled import InputError
from benchmarks.outcome import MeasureError, Outcome, UsageError
from benchmarks.publish import Report
from serve.errors import ConfigError

# Word of the command line → module, which has `add_arguments` and `run`, and what it measures. A
# module is imported when it is asked for, so that each needs no more than its own packages.
MEASUREMENTS: Mapping[str, tuple[str, str]] = {
    "load": ("load.command", "any server at a rate or under clients: latencies, rates, failures"),
    "sizes": ("sizes", "how cost grows with passages, words and clients, on any servers"),
    "startup": ("startup", "from `python -m serve up` to the first score"),
    "gateway": ("gateway", "the gateway against direct vLLM, and over nothing"),
    "peers": ("peers", "against other rerank servers and libraries"),
    "repeats": ("repeats", "what the score cache saves where texts repeat"),
    "interactive": ("interactive", "a small request beside a very large one"),
    "quality": ("quality", "how well labelled passages are ranked"),
}
ALL = ("startup", "gateway", "peers", "repeats", "interactive")
WRONG_USE = (UsageError, InputError, ConfigError)


class Measurement(Protocol):
    """A module of the table."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> list[Outcome]: ...


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _chooser().parse_args(given[:1]).what
    try:
        return _run(chosen, given)
    except WRONG_USE as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted: no report was written", 130)


def _run(chosen: str, given: Sequence[str]) -> int:
    only = None if chosen == "all" else _find(chosen)
    options = _parser(chosen, only).parse_args(given[1:])
    publish.check(options.out)
    report = Report(("python", "-m", "benchmarks", *given), publish.surroundings())
    if only:
        _measure(chosen, only, options, report)
    else:
        _measure_all(report)
    if options.out:
        _write(options.out, report)
    print(json.dumps(report.as_json(), default=str))
    return 1 if report.broken else 0


def _measure_all(report: Report) -> None:
    """Each with its own defaults. One that breaks is told, and does not stop the others."""
    for name in ALL:
        try:
            module = _find(name)
            _measure(name, module, _parser(name, module).parse_args([]), report)
        except WRONG_USE as error:
            _broke(name, error, report)


def _measure(name: str, module: Measurement, options: argparse.Namespace, report: Report) -> None:
    """Prints what a measurement comes to, or notes that it broke. Raises `WRONG_USE`."""
    print(f"\n{name}: {MEASUREMENTS[name][1]}", flush=True)
    try:
        for outcome in module.run(options):
            report.outcomes.append(outcome)
            print(publish.text(outcome), flush=True)
    except WRONG_USE:
        raise
    except MeasureError as error:
        _broke(name, error, report)
    except Exception as error:  # whatever it is, the figures of the others are not lost
        traceback.print_exc()
        _broke(name, error, report)


def _write(folder: Path, report: Report) -> None:
    try:
        print("\nwritten: " + ", ".join(map(str, publish.write(folder, report))))
    except UsageError as error:  # found out too late to measure nothing
        _broke("report", error, report)


def _broke(name: str, error: Exception, report: Report) -> None:
    report.broken[name] = " ".join(str(error).split()) or type(error).__name__
    _fail(f"{name}: {report.broken[name]}", 1)


def _find(name: str) -> Measurement:
    try:
        module: Measurement = pkgutil.resolve_name(f"benchmarks.{MEASUREMENTS[name][0]}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name}: {error.name} is not installed: `python3 deploy/install.py --dev` installs it"
        ) from error
    return module


def _chooser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {name:<12} {words}" for name, (_, words) in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"{table}\n  {'all':<12} {', '.join(ALL)}\n\n`WHAT --help` tells its options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="?", default="all", metavar="WHAT", choices=("all", *MEASUREMENTS)
    )
    return parser


def _parser(name: str, module: Measurement | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=MEASUREMENTS.get(name, ("", __doc__))[1]
    )
    if module:
        module.add_arguments(parser)
    words = "folder for report.html, results.json and a PNG of each chart; default: none is written"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=words)
    return parser


def _fail(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
