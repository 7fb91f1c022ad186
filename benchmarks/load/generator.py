"""Sends load to one target: in an open loop, when it is due; in a closed one, client by client."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Self

import aiohttp

from benchmarks.load.latency import LOST, OK, TIMEOUT, UNSENT, WRONG, Run, Shot
from benchmarks.load.targets import Target, WrongAnswer, failure
from benchmarks.load.texts import Question

TIMEOUT_S = 300.0
IN_FLIGHT = 1000
PAUSE_S = 0.05  # of a client after a failure, so that refusals are not all that is measured
WARM_UP_S = 1.0

Questions = Iterator[Question]
OnShot = Callable[[Shot], None]
OnScores = Callable[[Question, Sequence[float]], None]


class Asker:
    """Asks one target and notes what comes of it. Use as an async context manager, which is when
    its clock begins."""

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float = TIMEOUT_S,
        on_shot: OnShot | None = None,
        on_scores: OnScores | None = None,
    ) -> None:
        """`on_shot` is told of each request, `on_scores` of each right answer."""
        self._target = target
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._on_shot = on_shot
        self._on_scores = on_scores
        self._begin = 0.0
        self.shots: list[Shot] = []

    async def __aenter__(self) -> Self:
        socket = self._target.socket
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=socket, limit=0)
            if socket
            else aiohttp.TCPConnector(limit=0),
            timeout=self._timeout,
            headers={"content-type": "application/json", **self._target.headers},
        )
        self._begin = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._begin

    def body(self, question: Question) -> bytes:
        return self._target.dialect.body(question, self._target.model)

    def run(self) -> Run:
        """All that was noted until now."""
        return Run(self.shots, max(self.now(), 1e-9))

    def note(self, shot: Shot) -> Shot:
        self.shots.append(shot)
        if self._on_shot:
            self._on_shot(shot)
        return shot

    async def ask(self, question: Question, body: bytes, due: float | None = None) -> Shot:
        """One request. `due` is when it should have been sent, where that is not now."""
        sent = self.now()
        due = sent if due is None else due
        size = len(question.passages)
        try:
            async with self._http.post(self._target.address, data=body) as answer:
                content = await answer.read()
        except TimeoutError:
            return self.note(Shot(due, sent, self.now(), size, TIMEOUT))
        except (aiohttp.ClientError, OSError) as error:
            return self.note(Shot(due, sent, self.now(), size, LOST, told=str(error)))
        end = self.now()  # what reading the answer costs us is not the server's
        told = content[:200].decode(errors="replace")
        if answer.status != 200:
            retry_after = answer.headers.get("retry-after")
            outcome = failure(answer.status, content)
            return self.note(Shot(due, sent, end, size, outcome, retry_after, told=told))
        try:
            scores = self._target.dialect.scores(content, size)
        except WrongAnswer as error:
            return self.note(Shot(due, sent, end, size, WRONG, told=f"{error}: {told}"))
        if self._on_scores:
            self._on_scores(question, scores)
        return self.note(Shot(due, sent, end, size, OK, cached=_cached(answer)))


def _cached(answer: aiohttp.ClientResponse) -> int:
    told = answer.headers.get("x-rerank-cached", "")
    return int(told) if told.isdecimal() else 0


async def open_loop(
    asker: Asker, questions: Questions, moments: Iterable[float], in_flight: int = IN_FLIGHT
) -> Run:
    """Sends a request at each of `moments`, however slow the answers are, and awaits them all.

    One that is due while `in_flight` others are unanswered is not sent, and noted as such: it is
    never held back, which would slow the arrivals just when the server is slow.
    """
    under_way: set[asyncio.Task[Shot]] = set()
    for due in moments:
        question = next(questions)
        body = asker.body(question)  # made before it is due
        if (wait_s := due - asker.now()) > 0:
            await asyncio.sleep(wait_s)
        if len(under_way) >= in_flight:
            now = asker.now()
            asker.note(Shot(due, now, now, len(question.passages), UNSENT))
            continue
        task = asyncio.create_task(asker.ask(question, body, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        await asyncio.sleep(0)  # a loop that is late still sends each before it makes the next
    await asyncio.gather(*under_way)
    return asker.run()


async def closed_loop(
    asker: Asker, questions: Questions, *, clients: int, seconds: float = math.inf
) -> Run:
    """`clients` that each ask again once they are answered, until `seconds` are over or no question
    is left. The latencies are service times under so many clients."""

    async def client() -> None:
        while asker.now() < seconds and (question := next(questions, None)):
            shot = await asker.ask(question, asker.body(question))
            if shot.outcome != OK:
                await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(client() for _ in range(clients)))
    return asker.run()


async def side_by_side(
    targets: Sequence[Target],
    make: Callable[[str], Questions],
    *,
    clients: int,
    seconds: float,
    rounds: int,
    timeout_s: float = TIMEOUT_S,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, list[Run]]:
    """Closed loops: each target in turn, `rounds` times, after a short warm-up of each.

    Many short rounds, so that all targets see the same drift of a shared machine. `make` gives the
    questions of a seed, a different one for each round of each target.
    """
    runs: dict[str, list[Run]] = {target.name: [] for target in targets}
    for number in range(-1, rounds):
        for target in targets:
            questions = make(f"{number} {target.name}")
            span_s = seconds if number >= 0 else min(WARM_UP_S, seconds)
            async with Asker(target, timeout_s=timeout_s) as asker:
                run = await closed_loop(asker, questions, clients=clients, seconds=span_s)
            if number >= 0:
                runs[target.name].append(run)
                on_round()
    return runs


def all_good(runs: Mapping[str, Sequence[Run]]) -> str:
    """What the first bad answer was, in words; empty where every one was right."""
    for name, each in runs.items():
        for shot in (shot for run in each for shot in run.shots if shot.outcome != OK):
            return f"{name}: {shot.outcome}: {shot.told}"
    return ""
