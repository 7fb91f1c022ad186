"""What the score cache saves where texts repeat: the same stream with it and without it."""

import argparse
import asyncio
import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.embedded import config
from benchmarks.load.generator import Asker, all_good, closed_loop
from benchmarks.load.latency import Run, merged
from benchmarks.load.options import count, exponent
from benchmarks.load.results import rounded
from benchmarks.load.targets import DIALECTS, Target
from benchmarks.load.texts import Question, popular, sizes, unique
from benchmarks.outcome import Figure, MeasureError, Outcome, Row, UsageError
from tests.harness import SCORE_TOLERANCE, Server

READY_S = 300
CACHE_MIB = 64
PASSAGES = sizes("4-64")
WORDS = sizes("60")
TURNS = 8
LATER = 2  # turns of the server without a cache beside those of the warm one

Scores = list[tuple[Question, Sequence[float]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--requests", type=count, default=240, help="of the stream; default: %(default)s")
    add("--distinct", type=count, default=5000, help="pairs; default: %(default)s")
    add("--zipf", type=exponent, default=1.0, metavar="S", help="exponent; default: %(default)g")
    add("--clients", type=count, default=4, help="of the closed loop; default: %(default)s")


@dataclass
class Side:
    """One server: its runs over the stream the first time and the second, and its first scores."""

    target: Target
    cold: list[Run] = field(default_factory=list)
    warm: list[Run] = field(default_factory=list)
    scores: Scores = field(default_factory=list)


def run(arguments: argparse.Namespace) -> list[Outcome]:
    """Two servers of the embedded model, which take turns. Raises UsageError, MeasureError."""
    questions = stream(arguments)
    with tempfile.TemporaryDirectory() as work, ExitStack() as servers:
        urls = []
        for name, mib in (("with", CACHE_MIB), ("without", 0)):
            folder = Path(work) / name
            folder.mkdir()
            path = config(folder, name, {"cache": {"memory_mib": mib}})
            server = servers.enter_context(Server(path, folder, vllm=None))
            urls.append(server.until_ready(READY_S).url)
        return [measure(urls[0], urls[1], questions, arguments)]


def stream(options: argparse.Namespace) -> list[Question]:
    """Raises UsageError."""
    try:
        endless = popular(
            PASSAGES, WORDS, distinct=options.distinct, exponent=options.zipf, seed="stream"
        )
    except ValueError as error:
        raise UsageError(f"--distinct: {error}") from error
    return list(islice(endless, options.requests))


def measure(
    cached: str, plain: str, questions: Sequence[Question], options: argparse.Namespace
) -> Outcome:
    """The stream in turns, first by both servers, then again. Raises MeasureError."""
    ours, theirs = (
        Side(Target(name, url, dialect=DIALECTS["simple"]))
        for name, url in (("with", cached), ("without", plain))
    )
    asyncio.run(_in_turn(ours, theirs, questions, options.clients))
    check(ours, theirs)
    return _outcome(ours, theirs, questions, options)


async def _in_turn(ours: Side, theirs: Side, stream: Sequence[Question], clients: int) -> None:
    for side in (ours, theirs):  # engines are slow at first; of no text of the stream
        await _turn(side, list(islice(unique(PASSAGES, WORDS, "warm-up"), 4)), clients)
    step = math.ceil(len(stream) / TURNS)
    turns = [stream[begin : begin + step] for begin in range(0, len(stream), step)]
    for turn in turns:
        for side in (ours, theirs):
            side.cold.append(await _turn(side, turn, clients, keep=True))
    for number, turn in enumerate(turns):
        ours.warm.append(await _turn(ours, turn, clients))
        if number < LATER:  # which shows whether the machine has become slower
            theirs.warm.append(await _turn(theirs, turn, clients))


async def _turn(side: Side, questions: Sequence[Question], clients: int, keep: bool = False) -> Run:
    def on_scores(question: Question, scores: Sequence[float]) -> None:
        if keep:
            side.scores.append((question, scores))

    async with Asker(side.target, on_scores=on_scores) as asker:
        run = await closed_loop(asker, iter(questions), clients=clients)
    if bad := all_good({side.target.name: [run]}):
        raise MeasureError(bad)
    return run


def check(ours: Side, theirs: Side) -> None:
    """A fast wrong score does not count. Raises MeasureError."""
    known = {id(question): scores for question, scores in theirs.scores}
    for question, scores in ours.scores:
        for score, wanted in zip(scores, known[id(question)], strict=True):
            if abs(score - wanted) > SCORE_TOLERANCE:
                raise MeasureError(f"the cache answered {score}, and the engine {wanted}")


def _outcome(
    ours: Side, theirs: Side, stream: Sequence[Question], options: argparse.Namespace
) -> Outcome:
    pairs = sum(len(question.passages) for question in stream)
    different = len({(one.query, each) for one in stream for each in one.passages})
    without, cold, warm = merged(theirs.cold), merged(ours.cold), merged(ours.warm)
    again = merged(theirs.warm)
    return Outcome(
        "repeats",
        f"{options.requests} requests of {PASSAGES.text} passages out of {options.distinct} pairs"
        f" by Zipf's law, exponent {options.zipf:g}; {options.clients} clients in a closed loop;"
        f" embedded model; a cache of {CACHE_MIB} MiB against none, in turns",
        [
            _row("no cache", without, without),
            _row("no cache, again", again, without),
            _row("cache, from empty", cold, without),
            _row("cache, stream seen once", warm, without),
        ],
        [
            Figure(
                "pairs/s of a stream seen once, with the cache over without",
                round(warm.pair_rate / without.pair_rate, 1),
                20.0,
            )
        ],
        notes=[
            f"{pairs} pairs, {different} of them different: from an empty cache no more than"
            f" {pairs / different:.2f} times the speed is possible where scoring is all the time.",
            f"No score differs by more than {SCORE_TOLERANCE:g} from the one without the cache.",
        ],
    )


def _row(name: str, run: Run, base: Run) -> Row:
    cached = sum(shot.cached for shot in run.good)
    return {
        "server": name,
        "requests": len(run.good),
        "pairs": run.pairs,
        "from the cache": f"{cached / run.pairs:.1%}",
        "pairs/s": round(run.pair_rate, 1),
        "p50 ms": rounded(run.quantile(0.5)),
        "p95 ms": rounded(run.quantile(0.95)),
        "x no cache": round(run.pair_rate / base.pair_rate, 2),
    }
