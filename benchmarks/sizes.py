"""How cost grows with passages, words and clients, on one server or on several in turn."""

import argparse
import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.load.generator import side_by_side
from benchmarks.load.latency import Run, merged
from benchmarks.load.options import (
    add_seed,
    add_target,
    address,
    amount,
    count,
    counts,
    named,
    target,
)
from benchmarks.load.results import failures, rounded
from benchmarks.load.targets import Target
from benchmarks.load.texts import Question, sizes, unique
from benchmarks.outcome import Chart, MeasureError, Outcome, Row, UsageError
from benchmarks.progress import Progress

MEASURES = {"ms/request": "ms", "ms/pair": "ms", "pairs/s": "pairs per second"}
KINDS = ("passages", "words", "clients")


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked while `kind` varies."""

    kind: str
    passages: int
    words: int
    clients: int

    @property
    def size(self) -> int:
        return {"passages": self.passages, "words": self.words, "clients": self.clients}[self.kind]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", type=address, nargs="?", help="http://HOST:PORT, with the route after it or not")
    add(
        "--target",
        type=named,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a server to compare, under a name; may be given again",
    )
    add("--passages", type=counts, default=[1, 4, 16, 64, 256, 1000], help="default: 1,4,…,1000")
    add("--words", type=counts, default=[10, 30, 100, 300], help="default: 10,30,100,300")
    add("--clients", type=counts, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    add("--seconds", type=amount, default=1.0, help="of a turn; default: %(default)g")
    add("--rounds", type=count, default=3, help="turns of each; default: %(default)s")
    add_seed(parser)
    add_target(parser)


def run(arguments: argparse.Namespace) -> list[Outcome]:
    asked = _targets(arguments)
    seed = arguments.seed or secrets.token_hex(4)
    found = {}
    cells = list(_cells(arguments))
    total = len(cells) * arguments.rounds * len(asked)
    with Progress("sizes", total, " turns") as bar:
        for cell in cells:
            found[cell] = asyncio.run(_measure(asked, cell, arguments, seed, bar))
    if not any(one.good for runs in found.values() for one in runs.values()):
        words = failures(next(iter(found[cells[0]].values())))
        raise MeasureError(f"{asked[0].address}: not one right answer: {words}")
    return [_outcome(asked, found, arguments, seed)]


def _targets(arguments: argparse.Namespace) -> list[Target]:
    """Raises UsageError."""
    given = [*([("server", arguments.url)] if arguments.url else ()), *arguments.target]
    if not given:
        raise UsageError("no server is named: give its URL, or --target NAME=URL for each")
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        raise UsageError(f"--target: a name stands for two servers: {', '.join(sorted(names))}")
    return [target(name, url, arguments) for name, url in given]


def _cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    """One thing varies, and the others are as most requests have them."""
    yield from (Cell("passages", number, 60, 1) for number in arguments.passages)
    yield from (Cell("words", 16, number, 1) for number in arguments.words)
    yield from (Cell("clients", 4, 60, number) for number in arguments.clients)


async def _measure(
    asked: Sequence[Target], cell: Cell, arguments: argparse.Namespace, seed: str, bar: Progress
) -> Mapping[str, Run]:
    runs = await side_by_side(
        asked,
        partial(_questions, cell, seed),
        clients=cell.clients,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        timeout_s=arguments.timeout,
        on_round=bar.step,
    )
    return {name: merged(each) for name, each in runs.items()}


def _questions(cell: Cell, seed: str, turn: str) -> Iterator[Question]:
    return unique(sizes(str(cell.passages)), sizes(str(cell.words)), f"{seed} {cell} {turn}")


def _outcome(
    asked: Sequence[Target],
    found: Mapping[Cell, Mapping[str, Run]],
    arguments: argparse.Namespace,
    seed: str,
) -> Outcome:
    first = asked[0].name
    rows = [
        _row(cell, name, one, runs[first])
        for cell, runs in found.items()
        for name, one in runs.items()
    ]
    failed = [
        f"{name}, {cell.passages} passages of {cell.words} words, {cell.clients} clients:"
        f" {failures(one)}"
        for cell, runs in found.items()
        for name, one in runs.items()
        if one.failures
    ]
    return Outcome(
        "sizes",
        f"{', '.join(f'{each.name} ({each.address})' for each in asked)}: each cell in turns of"
        f" {arguments.seconds:g} s, {arguments.rounds} of each server; closed loops, texts that are"
        f" new each time; seed {seed}",
        rows,
        charts=[_chart(kind, measure, asked, found) for kind in KINDS for measure in MEASURES],
        notes=[
            "ms/request is the median of service times; ms/pair is time over pairs scored, however"
            " many clients asked at once.",
            *failed,
        ],
    )


def _row(cell: Cell, name: str, one: Run, first: Run) -> Row:
    ratio = one.pair_rate / first.pair_rate if first.pair_rate else float("nan")
    return {
        "varies": cell.kind,
        "passages": cell.passages,
        "words": cell.words,
        "clients": cell.clients,
        "server": name,
        "requests": len(one.good),
        "failed": len(one.shots) - len(one.good),
        **{measure: rounded(_value(one, measure)) for measure in MEASURES},
        "x the first": rounded(ratio),
    }


def _value(one: Run, measure: str) -> float:
    if not one.good:
        return float("nan")
    return {
        "ms/request": one.quantile(0.5),
        "ms/pair": 1000 / one.pair_rate,
        "pairs/s": one.pair_rate,
    }[measure]


def _chart(
    kind: str, measure: str, asked: Sequence[Target], found: Mapping[Cell, Mapping[str, Run]]
) -> Chart:
    series = {
        each.name: [
            (float(cell.size), _value(runs[each.name], measure))
            for cell, runs in found.items()
            if cell.kind == kind and runs[each.name].good
        ]
        for each in asked
    }
    return Chart(
        f"{measure} by {kind}",
        {"words": "words per passage"}.get(kind, kind),
        MEASURES[measure],
        series,
        log_x=True,
        log_y=measure != "pairs/s",
    )
