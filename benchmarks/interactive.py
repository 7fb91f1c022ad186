"""How long a small request takes while a very large one is worked on, against without it."""

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from benchmarks.embedded import config
from benchmarks.load.arrivals import poisson
from benchmarks.load.generator import Asker, all_good, open_loop
from benchmarks.load.latency import SHARES, Run, merged
from benchmarks.load.options import amount, count
from benchmarks.load.results import rounded
from benchmarks.load.targets import DIALECTS, Target
from benchmarks.load.texts import Question, sizes, unique
from benchmarks.outcome import Figure, MeasureError, Outcome, Row
from tests.harness import Server

READY_S = 300
TIMEOUT_S = 1800.0
SMALL = 4
WORDS = sizes("60")
# As wide as 10,000 passages on a slow CPU need: no request is to be refused or to run out of time.
LIMITS = {
    "passages": 100_000,
    "pairs_in_flight": 200_000,
    "body_bytes": 256 * 1024 * 1024,
    "timeout_s": TIMEOUT_S,
    "wait_s": TIMEOUT_S,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--passages", type=count, default=10_000, help="of the large request; default: %(default)s")
    add("--rate", type=amount, default=2.0, help="small requests a second; default: %(default)g")
    add("--seconds", type=amount, default=20.0, help="without it, twice; default: %(default)g")


@dataclass(frozen=True)
class Found:
    """The small requests without the large one and beside it, and its own seconds."""

    alone: Run
    beside: Run
    large_s: float


def run(arguments: argparse.Namespace) -> list[Outcome]:
    """Over the embedded model. Raises MeasureError."""
    with tempfile.TemporaryDirectory() as work:
        wide = config(Path(work), "wide", {"limits": LIMITS})
        with Server(wide, Path(work), vllm=None) as server:
            server.until_ready(READY_S)
            return [measure(server.url, arguments.passages, arguments.rate, arguments.seconds)]


def measure(url: str, passages: int, rate: float, seconds: float) -> Outcome:
    """`rate` small requests a second in an open loop: `seconds` alone, while a request of so many
    passages is worked on, and `seconds` alone again. Raises MeasureError."""
    asked = Target("server", url, dialect=DIALECTS["simple"])
    found = asyncio.run(_in_turn(asked, passages, rate, seconds))
    alone, beside = found.alone, found.beside
    ratio = beside.quantile(0.95) / alone.quantile(0.95)
    return Outcome(
        "interactive",
        f"{SMALL} passages, {rate:g} requests a second (Poisson), alone and beside one request of"
        f" {passages} passages; no text twice",
        [
            _row("alone", alone),
            _row(f"beside {passages} passages", beside),
        ],
        [
            Figure(
                f"p95 of {SMALL} passages beside {passages}, over their p95 alone",
                round(ratio, 2),
                2.0,
                is_least=False,
            )
        ],
        notes=[f"The request of {passages} passages took {found.large_s:.1f} s."],
        details={"large_s": found.large_s},
    )


async def _in_turn(asked: Target, passages: int, rate: float, seconds: float) -> Found:
    await _alone(asked, rate, min(seconds, 2.0), "warm-up")
    before = await _alone(asked, rate, seconds, "before")
    large = asyncio.create_task(_large(asked, passages))
    beside = await _while(large, asked, rate)
    after = await _alone(asked, rate, seconds, "after")
    large_run = await large
    if bad := all_good({"small": [before, beside, after], "large": [large_run]}):
        raise MeasureError(bad)
    if not beside.shots:
        raise MeasureError("the large request was done before a small one came: make it larger")
    return Found(merged([before, after]), beside, large_run.seconds)


async def _large(asked: Target, passages: int) -> Run:
    async with Asker(asked, timeout_s=TIMEOUT_S) as asker:
        question = next(unique(sizes(str(passages)), WORDS, "large"))
        await asker.ask(question, asker.body(question))
        return asker.run()


async def _alone(asked: Target, rate: float, seconds: float, seed: str) -> Run:
    async with Asker(asked, timeout_s=TIMEOUT_S) as asker:
        return await open_loop(asker, _small(seed), poisson(rate, seconds, seed))


async def _while(large: "asyncio.Task[Run]", asked: Target, rate: float) -> Run:
    """The small requests that are due until the large one is done."""
    moments = takewhile(lambda _: not large.done(), poisson(rate, TIMEOUT_S, "beside"))
    async with Asker(asked, timeout_s=TIMEOUT_S) as asker:
        return await open_loop(asker, _small("beside"), moments)


def _small(seed: str) -> Iterator[Question]:
    return unique(sizes(str(SMALL)), WORDS, seed)


def _row(name: str, run: Run) -> Row:
    return {
        f"{SMALL} passages": name,
        "requests": len(run.good),
        **{
            f"{share} ms": rounded(run.quantile(SHARES[share]))
            for share in ("p50", "p90", "p95", "max")
        },
    }
