"""What a model lets in: so many pairs and bytes, and nothing that would come too late.

A request that cannot be answered in its time is refused at once, with when to come again, instead
of being queued until its client has gone: under overload the work that is done is then of use.
"""

import math
from collections import Counter
from typing import Self

from serve.engine import RETRY_AFTER_S
from serve.errors import Overloaded, TooLarge
from serve.events import Events
from serve.pace import Pace
from serve.rerank import RerankRequest
from serve.spec import Limits

SURE = 0.8  # of a request's time: what it would take by the pace measured must not be more
MOST_RETRY_AFTER_S = 60  # Cohere's SDK heeds no more


class Ticket:
    """What one request has in flight: `pairs` that are not scored yet, and `size` in bytes. It is
    let in for as long as its block runs."""

    __slots__ = ("_admission", "_priority", "pairs", "size")

    def __init__(
        self, admission: "Admission", pairs: int = 0, size: int = 0, priority: int = 0
    ) -> None:
        self._admission = admission
        self._priority = priority
        self.pairs = pairs
        self.size = size

    def __enter__(self) -> Self:
        self._admission.requests += 1
        self._admission.count(self.pairs, self.size, self._priority)
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.requests -= 1
        self.add(-self.pairs, -self.size)

    def add(self, pairs: int, size: int) -> None:
        """Counts more, or less."""
        self.pairs += pairs
        self.size += size
        self._admission.count(pairs, size, self._priority)

    def scored(self, pairs: int) -> None:
        """So many are done."""
        self.add(-min(pairs, self.pairs), 0)


class Admission:
    """Counts what one model has in flight, and refuses what is too much."""

    def __init__(self, name: str, limits: Limits, pace: Pace, events: Events) -> None:
        self.requests = 0
        self.pairs = 0
        self.size = 0
        self._name = name
        self._limits = limits
        self._pace = pace
        self._events = events
        self._by_priority = Counter[int]()  # pairs

    def count(self, pairs: int, size: int, priority: int) -> None:
        """Counts more, or less."""
        self.pairs += pairs
        self.size += size
        self._by_priority[priority] += pairs
        if not self._by_priority[priority]:
            del self._by_priority[priority]

    def admit(self, pairs: int, size: int, left_s: float = math.inf, priority: int = 0) -> Ticket:
        """Lets a request in, if it can be done in `left_s` seconds (infinity: it waits as long as
        it must).

        Raises Overloaded. One that is alone is let in, whatever it is.
        """
        if self.requests:
            self._check_room(pairs, size)
            if left_s < math.inf:
                self._check_time(pairs, left_s, priority)
        return Ticket(self, pairs, size, priority)

    def grow(self, ticket: Ticket, pairs: int, size: int) -> None:
        """Counts more for a request that is in. Raises Overloaded."""
        if self.requests > 1:
            self._check_room(pairs, size, ticket)
        ticket.add(pairs, size)

    def _check_room(self, pairs: int, size: int, own: Ticket | None = None) -> None:
        limits = self._limits
        if self.pairs + pairs > limits.pairs_in_flight:
            others = self.pairs - (own.pairs if own else 0)
            late = self._pace.seconds(self.pairs + pairs - limits.pairs_in_flight)
            raise self._shed(
                "pairs",
                f"{others} pairs are in flight and the limit is {limits.pairs_in_flight}: try"
                " again, or raise `limits: {pairs_in_flight: …}`.",
                late,
            )
        if self.size + size > limits.bytes_in_flight:
            others = self.size - (own.size if own else 0)
            late = self._pace.seconds(self.pairs) / 2
            raise self._shed(
                "bytes",
                f"Texts of {others} bytes are in flight and the limit is {limits.bytes_in_flight}:"
                " try again, or raise `limits: {bytes_in_flight: …}`.",
                late,
            )

    def takes_s(self, pairs: int, priority: int = 0) -> tuple[float, float]:
        """How long so many pairs that come now would wait for others, and take in all, in seconds.

        Turns are given fairly, so before `pairs` of one request are done, so many of each other
        one are: no more than those have, and no more than there are. And every second turn behind
        its first goes to whoever comes after it, so that those count twice.
        """
        ahead = sum(n for p, n in self._by_priority.items() if p <= priority)
        before = min(ahead, pairs * self.requests)
        turn, _ = self._pace.turn(1)
        own = pairs + max(0, pairs - turn)
        return self._pace.seconds(before), self._pace.seconds(before + own)

    def _check_time(self, pairs: int, left_s: float, priority: int) -> None:
        """Raises Overloaded for what would wait or take too long."""
        wait_s, takes_s = self.takes_s(pairs, priority)
        most_s = self._limits.wait_s
        if wait_s > most_s:
            raise self._shed(
                "wait",
                f"It would wait {wait_s:.0f} s for others and the limit is {most_s:g} s: try again,"
                " or raise `limits: {wait_s: …}`.",
                wait_s - most_s,
            )
        if takes_s > SURE * left_s:
            raise self._shed(
                "deadline",
                f"It would take {takes_s:.1f} s and has {left_s:.1f} s: try again, send fewer"
                " passages, or give it more time.",
                takes_s - SURE * left_s,
            )

    def _shed(self, reason: str, words: str, late_s: float) -> Overloaded:
        """The error for a request that would fit in `late_s` seconds from now (0: unknown)."""
        self._events.shed(self._name, reason)
        after = math.ceil(late_s) if late_s > 0 else RETRY_AFTER_S
        return Overloaded(words, retry_after=min(MOST_RETRY_AFTER_S, after))


def check_size(request: RerankRequest, limits: Limits, most: int | None = None) -> None:
    """Raises TooLarge, naming the limit, when the request, or `most` of its passages, is more than
    one may ask for."""
    query, passages = request.fields
    if len(request.passages[:most]) > limits.passages:
        raise TooLarge(
            f"{passages} has {len(request.passages)} texts and the limit is {limits.passages}: send"
            " them in several requests, or raise `limits: {passages: …}`.",
            param=passages,
        )
    for name, texts in ((query, request.queries), (passages, request.passages)):
        if max(map(len, texts)) > limits.text_chars:
            longest = max(range(len(texts)), key=lambda index: len(texts[index]))
            is_alone = name == query and len(texts) == 1
            where = name if is_alone else f"{name}[{longest}]"
            raise TooLarge(
                f"{where} has {len(texts[longest])} characters and the limit is"
                f" {limits.text_chars}: shorten it, or raise `limits: {{text_chars: …}}`.",
                param=where,
            )
