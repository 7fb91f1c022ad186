"""What the gateway costs: against vLLM itself, and alone over an engine that takes no time."""

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from benchmarks.load.generator import Questions, all_good, side_by_side
from benchmarks.load.latency import Run, merged, quartiles
from benchmarks.load.options import count, seconds
from benchmarks.load.targets import DIALECTS, Target
from benchmarks.load.texts import doubled, sizes, unique
from benchmarks.outcome import Figure, MeasureError, Outcome, Row
from tests.harness import Server, write_config

READY_S = 300
WORDS = sizes("60")
# Clients, passages, and how often each of these stands in its request.
CELLS = ((1, 4, 1), (1, 64, 1), (8, 4, 1), (8, 64, 1), (1, 64, 2))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--over", choices=("both", *OVER), default="both", help="the engine below the gateway")
    add("--seconds", type=seconds, default=2.5, help="of a turn; default: %(default)s")
    add("--rounds", type=count, default=16, help="turns of each; default: %(default)s")


def run(arguments: argparse.Namespace) -> list[Outcome]:
    """Over no engine first, which is soon done."""
    wanted = OVER if arguments.over == "both" else (arguments.over,)
    return [OVER[name](arguments.seconds, arguments.rounds) for name in wanted]


def targets(server: Server) -> Sequence[Target]:
    """The gateway, and its engine without the gateway: the same process, the same route."""
    socket = next(server.run_dir.glob("*/engine-0-*/http.sock"))
    spoken = DIALECTS["queries"]  # what the gateway itself says to its engine
    return (
        Target("gateway", server.url, dialect=spoken),
        Target("direct", "http://engine", str(socket), spoken),
    )


def questions(clients: int, passages: int, times: int, seed: str) -> Questions:
    """Requests of so many passages that no other cell has sent, each passage once or twice."""
    once = unique(sizes(str(passages // times)), WORDS, f"{clients} {passages} {times} {seed}")
    return once if times == 1 else doubled(once)


def _measure(
    both: Sequence[Target], clients: int, passages: int, times: int, seconds: float, rounds: int
) -> dict[str, list[Run]]:
    """Raises MeasureError where one answer was not right, or was the cache's and no engine's."""
    make = partial(questions, clients, passages, times)
    runs = asyncio.run(side_by_side(both, make, clients=clients, seconds=seconds, rounds=rounds))
    if bad := all_good(runs):
        raise MeasureError(bad)
    shots = (shot for each in runs.values() for one in each for shot in one.good)
    if times == 1 and any(shot.cached for shot in shots):
        raise MeasureError("the score cache answered in place of the engine: some text came twice")
    return runs


def over_vllm(seconds: float, rounds: int) -> Outcome:
    """The gateway against direct vLLM with the embedded model: throughput and added latency."""
    found: dict[tuple[int, int, int], dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory() as work, Server("minilm", Path(work), vllm=None) as server:
        server.until_ready(READY_S)
        both = targets(server)
        for clients, passages, times in CELLS:
            slow = 4 if passages > 4 else 1  # a turn of long requests needs more time
            found[clients, passages, times] = _measure(
                both, clients, passages, times, seconds * slow, max(1, rounds // slow)
            )
    return Outcome(
        "gateway-over-vllm",
        "the gateway against direct vLLM, embedded model, in turns; closed loops; no text twice"
        " but where a request has each passage two times",
        [_compare(runs, *cell) for cell, runs in found.items()],
        _figures(found[1, 4, 1], found[1, 64, 2]),
    )


def _compare(runs: Mapping[str, list[Run]], clients: int, passages: int, times: int) -> Row:
    ours, theirs = merged(runs["gateway"]), merged(runs["direct"])
    spread = quartiles(runs["gateway"], runs["direct"])
    return {
        "clients": clients,
        "passages": str(passages) if times == 1 else f"{passages // times}, {times} x each",
        "gateway req/s": round(ours.rate, 1),
        "direct req/s": round(theirs.rate, 1),
        "throughput ratio": round(ours.rate / theirs.rate, 3),
        "quartiles of rounds": "/".join(f"{x:.3f}" for x in spread),
        "p50 ms": round(ours.quantile(0.5), 2),
        "added p50 ms": round(ours.quantile(0.5) - theirs.quantile(0.5), 2),
        "added p99 ms": round(ours.quantile(0.99) - theirs.quantile(0.99), 2),
    }


def _figures(small: Mapping[str, list[Run]], repeated: Mapping[str, list[Run]]) -> Sequence[Figure]:
    ours, theirs = merged(small["gateway"]), merged(small["direct"])
    twice, directly = merged(repeated["gateway"]), merged(repeated["direct"])
    return (
        Figure(
            "throughput of the gateway over bare vLLM's, 1 client, 4 passages",
            round(ours.rate / theirs.rate, 3),
            0.98,
        ),
        Figure(
            "p50 that the gateway adds, ms, 1 client, 4 passages",
            round(ours.quantile(0.5) - theirs.quantile(0.5), 3),
            1.0,
            is_least=False,
        ),
        Figure(
            "throughput of the gateway over bare vLLM's, 1 client, 32 passages twice each",
            round(twice.rate / directly.rate, 3),
            1.0,
        ),
    )


def over_nothing(seconds: float, rounds: int) -> Outcome:
    """The gateway over the fake engine: what its own work comes to, per request and per core."""
    with tempfile.TemporaryDirectory() as work:
        config = write_config(Path(work))
        with Server(config, Path(work)) as server:
            server.until_ready()
            rows = [_own_cost(server, each, seconds, max(1, rounds // 4)) for each in (4, 100)]
    return Outcome(
        "gateway-over-nothing",
        "the gateway over an engine that takes no time; no text twice",
        rows,
        notes=(
            "`req/s per core` is requests over the CPU time of the gateway's process: what one core"
            " could answer if nothing else ran on it.",
            "Latency is added to the fake engine's own, at one client.",
        ),
    )


def _own_cost(server: Server, passages: int, seconds: float, rounds: int) -> Row:
    process = psutil.Process(server.process.pid)
    both = targets(server)
    one = _measure(both, 1, passages, 1, seconds, rounds)
    before = sum(process.cpu_times()[:2])
    many = merged(_measure(both[:1], 8, passages, 1, seconds, rounds)["gateway"])
    # The warm-up's requests are in the CPU time and not in the count: the figure errs downwards.
    spent = sum(process.cpu_times()[:2]) - before
    ours, theirs = merged(one["gateway"]), merged(one["direct"])
    return {
        "passages": passages,
        "req/s per core": round(len(many.good) / spent),
        "req/s, 8 clients": round(many.rate),
        "CPU ms/req": round(1000 * spent / len(many.good), 3),
        "added p50 ms": round(ours.quantile(0.5) - theirs.quantile(0.5), 3),
        "added p99 ms": round(ours.quantile(0.99) - theirs.quantile(0.99), 3),
    }


OVER = {"nothing": over_nothing, "vllm": over_vllm}
