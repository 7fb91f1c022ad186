"""Proxies in front of one engine that takes no time, in turn: what each adds to a request."""

import argparse
import os
import random
import secrets
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import orjson

from benchmarks.load.targets import DIALECTS, WrongAnswer
from benchmarks.outcome import Figure, MeasureError, Outcome, Row
from benchmarks.peers import fronts, machine, wire
from benchmarks.peers.fronts import Front, FrontError
from benchmarks.peers.texts import QUERY_TOKENS, WORDS
from benchmarks.peers.verdicts import quartiles
from benchmarks.peers.wire import Rate
from benchmarks.peers.zero_engine import MODEL
from benchmarks.progress import Progress

WORDS_PER_PASSAGE = 60
QUESTIONS = 64  # different ones, again and again: the engine computes nothing
WARM_UP_S = 0.5
OURS, ENGINE = "ours", "engine"
WANTED: Mapping[str, float] = {"litellm": 8.0, "haproxy": 0.3}


@dataclass
class Turns:
    """What one proxy did with one load, round by round."""

    front: Front
    rates: list[Rate] = field(default_factory=list)
    cpu_s: float = 0.0

    def turn(self, requests: Sequence[bytes], clients: int, seconds: float) -> None:
        before = self.front.cpu_s()
        self.rates.append(wire.load(self.front.address, requests, clients=clients, seconds=seconds))
        self.cpu_s += self.front.cpu_s() - before

    @property
    def per_second(self) -> Sequence[float]:
        return [rate.per_second for rate in self.rates]

    @property
    def cpu_ms(self) -> float:
        """Of each request, of the proxy's process alone."""
        return 1000 * self.cpu_s / sum(rate.requests for rate in self.rates)


@dataclass(frozen=True)
class Load:
    """So many clients with so many passages each, and what each proxy did with them."""

    clients: int
    passages: int
    turns: Mapping[str, Turns]

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Ours over another's requests/s: quartiles of the rounds."""
        return quartiles(self.turns[OURS].per_second, self.turns[name].per_second)


def run(options: argparse.Namespace) -> list[Outcome]:
    """One outcome. Raises MeasureError."""
    notes = list(machine.notes(machine.cores_at_work(), os.cpu_count() or 1))
    loads: list[Load] = []
    with ExitStack() as stack:
        key = f"sk-{secrets.token_hex(24)}"  # for this run alone; all that check keys check it
        found = _fronts(stack, options, key, notes)
        total = len(options.clients) * len(options.sizes) * options.rounds
        with Progress("proxies", total, " rounds") as progress:
            for passages in options.sizes:
                requests = _requests(passages, key)
                _check(found, requests[0], passages)
                for clients in options.clients:
                    load = Load(clients, passages, {front.name: Turns(front) for front in found})
                    _take_turns(load, requests, options, progress)
                    loads.append(load)
    words = (
        "requests/s at POST /rerank in front of one engine that takes no time, one process each"
        " (HAProxy: one thread), a closed loop of clients in turn; proxy, engine and clients share"
        " the cores, so that the proxy's own CPU is told too"
    )
    return [Outcome("proxies", words, rows(loads), figures(loads), notes=notes)]


def _fronts(
    stack: ExitStack, options: argparse.Namespace, key: str, notes: list[str]
) -> list[Front]:
    """Ours, the engine, and each of the others that can be had."""
    try:
        ours, engine, port = stack.enter_context(fronts.gateway(key))
    except AssertionError as error:  # the harness's word for a server that does not start
        raise MeasureError(f"our gateway does not start: {error}") from error
    found = [ours]
    others = {
        "litellm": fronts.litellm(port, key, options.cache.resolve(), os.environ),
        "haproxy": fronts.haproxy(engine.address, key, os.environ),
        "relay": fronts.relay(engine.address, key, os.environ),
    }
    for name in (name for name in others if name in options.peers):
        try:
            found.append(stack.enter_context(others[name]))
        except FrontError as error:
            notes.append(f"{name} is not measured: {error}")
    return [*found, engine]


def _requests(passages: int, key: str) -> list[bytes]:
    source = random.Random(passages)

    def text(words: int) -> str:
        return " ".join(source.choices(WORDS, k=words))

    return [
        wire.request(
            orjson.dumps(
                {
                    "model": MODEL,
                    "query": text(QUERY_TOKENS),
                    "documents": [text(WORDS_PER_PASSAGE) for _ in range(passages)],
                }
            ),
            key,
        )
        for _ in range(QUESTIONS)
    ]


def _check(found: Sequence[Front], request: bytes, passages: int) -> None:
    """Every proxy tells the same order: a fast wrong answer does not count. Raises MeasureError."""
    orders = {}
    for front in found:
        try:
            scores = DIALECTS["documents"].scores(wire.ask(front.address, request), passages)
        except (WrongAnswer, wire.WrongAnswer) as error:
            raise MeasureError(f"{front.name}: {error}") from error
        orders[front.name] = sorted(range(passages), key=scores.__getitem__)
    for name, order in orders.items():
        if order != orders[ENGINE]:
            raise MeasureError(f"{name} ranks otherwise than the engine that it asks")


def _take_turns(
    load: Load, requests: Sequence[bytes], options: argparse.Namespace, progress: Progress
) -> None:
    """Raises MeasureError."""
    try:
        for turns in load.turns.values():
            address = turns.front.address
            wire.load(address, requests, clients=load.clients, seconds=WARM_UP_S)
        for _ in range(options.rounds):
            for turns in load.turns.values():
                turns.turn(requests, load.clients, options.seconds)
            progress.step()
    except wire.WrongAnswer as error:
        raise MeasureError(f"a request failed: {error}") from error


def rows(loads: Sequence[Load]) -> list[Row]:
    """One for each proxy under each load; the engine's own says what could be had at most."""
    found: list[Row] = []
    for load in loads:
        for name, turns in load.turns.items():
            low, middle, high = load.ratio(name)
            cpu = turns.cpu_ms
            found.append(
                {
                    "passages": load.passages,
                    "clients": load.clients,
                    "proxy": name if name != ENGINE else "(engine alone)",
                    "req/s": round(statistics.median(turns.per_second)),
                    "ours/proxy": f"{middle:.3f}",
                    "quartiles": f"{low:.3f}/{high:.3f}",
                    "CPU ms/req": f"{cpu:.3f}" if cpu else "-",
                    "req/CPU s": round(1000 / cpu) if cpu else "-",
                    "ours/proxy by CPU": f"{_by_cpu(load, name):.3f}" if cpu else "-",
                }
            )
    return found


def _by_cpu(load: Load, name: str) -> float:
    """Ours over another's requests for each second of the proxy's own processor time."""
    ours = load.turns[OURS].cpu_ms
    return load.turns[name].cpu_ms / ours if ours else 0.0


def figures(loads: Sequence[Load]) -> list[Figure]:
    """Ours over each other proxy's requests/s: of all numbers of clients the least."""
    found = []
    for name, wanted in WANTED.items():
        for passages in sorted({load.passages for load in loads}):
            same = [x for x in loads if x.passages == passages and name in x.turns]
            if not same:
                continue
            worst = min(same, key=lambda load: load.ratio(name)[1])
            value = worst.ratio(name)[1]
            words = f"{passages} passages: requests/s, ours / {name}"
            why = _why(worst, name) if value < wanted else ""
            found.append(Figure(words, round(value, 3), wanted, why=why))
    return found


def _why(load: Load, name: str) -> str:
    ours, theirs = load.turns[OURS].cpu_ms, load.turns[name].cpu_ms
    return (
        f"with {load.clients} clients ours takes {ours:.3f} ms of CPU a request, {name}"
        f" {theirs:.3f}: {_by_cpu(load, name):.2f} by CPU"
    )
