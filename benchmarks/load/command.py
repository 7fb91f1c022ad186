"""Load on one server: at a rate, or of a number of clients; latencies, rates, failures."""

import argparse
import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.load.arrivals import ARRIVALS
from benchmarks.load.generator import IN_FLIGHT, Asker, Questions, closed_loop, open_loop
from benchmarks.load.latency import LOST, OK, Run, Shot
from benchmarks.load.options import (
    add_seed,
    add_target,
    address,
    amount,
    amounts,
    count,
    counts,
    distribution,
    exponent,
    target,
)
from benchmarks.load.results import Load, charts, details, failures, notes, rows
from benchmarks.load.targets import Target
from benchmarks.load.texts import FORMS, popular, sizes, unique
from benchmarks.outcome import MeasureError, Outcome, UsageError
from benchmarks.progress import Progress

MIX = "4:0.95,1000:0.05"
MOST_REQUESTS = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", type=address, help="http://HOST:PORT, with the route after it or not")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=amounts, metavar="R[,R]", help="open loop, requests a second")
    load.add_argument(
        "--clients", type=counts, metavar="N[,N]", default=[1], help="closed loop; default: 1"
    )
    add("--seconds", type=amount, default=30.0, help="of each load; default: %(default)g")
    add("--arrivals", choices=tuple(ARRIVALS), default="poisson", help="default: %(default)s")
    add(
        "--in-flight",
        type=count,
        default=IN_FLIGHT,
        metavar="N",
        help="open loop: beyond so many unanswered none is sent; default: %(default)s",
    )
    add("--passages", type=distribution, default=sizes("4"), help=f"{FORMS}; default: 4")
    add("--mix", action="store_true", help=f"small and large ones: --passages {MIX}")
    add("--words", type=distribution, default=sizes("60"), help="of each, likewise; default: 60")
    add("--zipf", type=exponent, metavar="S", help="texts by popularity instead of new ones")
    add("--distinct", type=count, metavar="N", help="pairs, with --zipf; default: 5000")
    add("--socket", type=Path, help="the Unix socket that the server listens on")
    add_seed(parser)
    add_target(parser)


def run(arguments: argparse.Namespace) -> list[Outcome]:
    seed = arguments.seed or secrets.token_hex(4)
    questions = _questions(arguments, seed)
    asked = target("server", arguments.url, arguments, arguments.socket)
    if max(arguments.rate or [0]) * arguments.seconds > MOST_REQUESTS:
        raise UsageError(f"--rate: at most {MOST_REQUESTS} requests are sent in one load")
    asyncio.run(_reach(asked, arguments.timeout))
    loads = [
        *(_at_rate(rate, asked, questions, arguments, seed) for rate in arguments.rate or ()),
        *(
            _of_clients(clients, asked, questions, arguments)
            for clients in (() if arguments.rate else arguments.clients)
        ),
    ]
    if not any(load.run.good for load in loads):
        runs = "; ".join(failures(load.run) for load in loads)
        raise MeasureError(f"{asked.address}: not one right answer: {runs or 'nothing was sent'}")
    return [
        Outcome(
            "load",
            _words(asked, arguments, seed),
            rows(loads),
            charts=charts(loads),
            notes=notes(loads),
            details=details(loads),
        )
    ]


def _questions(options: argparse.Namespace, seed: str) -> Questions:
    """What is asked. Raises UsageError."""
    passages = sizes(MIX) if options.mix else options.passages
    if options.zipf is None:
        if options.distinct:
            raise UsageError("--distinct: texts repeat with --zipf only: name its exponent too")
        return unique(passages, options.words, seed)
    try:
        return popular(
            passages,
            options.words,
            distinct=options.distinct or 5000,
            exponent=options.zipf,
            seed=seed,
        )
    except ValueError as error:
        raise UsageError(f"--distinct: {error}") from error


def _words(asked: Target, options: argparse.Namespace, seed: str) -> str:
    texts = "texts that are new each time"
    if options.zipf is not None:
        texts = f"{options.distinct or 5000} pairs by Zipf's law, exponent {options.zipf:g}"
    passages = MIX if options.mix else options.passages.text
    arrivals = f", {options.arrivals} arrivals" if options.rate else ""
    return (
        f"{asked.address}{f' on {asked.socket}' if asked.socket else ''} in dialect"
        f" {asked.dialect.name}, {options.seconds:g} s each{arrivals}; passages {passages}, words"
        f" {options.words.text}; {texts}; seed {seed}"
    )


async def _reach(asked: Target, timeout_s: float) -> None:
    """One small request before all others: connections and caches are warm, and a wrong address is
    told at once. Raises MeasureError."""
    question = next(unique(sizes("1"), sizes("4"), secrets.token_hex(4)))
    async with Asker(asked, timeout_s=timeout_s) as asker:
        shot = await asker.ask(question, asker.body(question))
    if shot.outcome == LOST:
        raise MeasureError(f"{asked.address}: {shot.told}: is the server running?")


def _at_rate(
    rate: float, asked: Target, questions: Questions, options: argparse.Namespace, seed: str
) -> Load:
    moments = ARRIVALS[options.arrivals](rate, options.seconds, f"{seed} {rate}")

    async def loop(asker: Asker) -> Run:
        return await open_loop(asker, questions, moments, options.in_flight)

    return Load(_watched(f"{rate:g}/s", asked, options, loop), rate=rate)


def _of_clients(
    clients: int, asked: Target, questions: Questions, options: argparse.Namespace
) -> Load:
    async def loop(asker: Asker) -> Run:
        return await closed_loop(asker, questions, clients=clients, seconds=options.seconds)

    return Load(_watched(f"{clients} clients", asked, options, loop), clients=clients)


def _watched(
    words: str,
    asked: Target,
    options: argparse.Namespace,
    loop: Callable[[Asker], Awaitable[Run]],
) -> Run:
    """A run of `loop`, with a bar of its seconds."""
    counted = Counter[bool]()

    async def watch() -> Run:
        with Progress(words, options.seconds, " s") as bar:

            def on_shot(shot: Shot) -> None:
                counted[shot.outcome == OK] += 1
                bar.reach(shot.end, f", {counted[True]} right, {counted[False]} failed,")

            async with Asker(asked, timeout_s=options.timeout, on_shot=on_shot) as asker:
                return await loop(asker)

    return asyncio.run(watch())
