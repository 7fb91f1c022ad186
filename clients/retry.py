"""When a request is sent again: one policy for all clients, whose SDKs do not retry themselves."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from clients.errors import RerankError
from clients.wire import LONGEST_S

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How often and how long. The pauses double from `first_s` up to `cap_s`, with jitter. Where
    the server says when to come again (Retry-After) it is asked no sooner, whatever `cap_s` is.

    `tries` counts the first request too: 1 is no retry. After `budget_s` seconds since the first
    request none is sent again: a server that asks for a longer pause is given up at once. All in
    seconds.
    """

    tries: int = 4
    first_s: float = 0.5
    cap_s: float = 30.0
    budget_s: float = 120.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.first_s, self.cap_s, self.budget_s) < 0:
            raise ValueError("Retry: tries must be 1 or more, and no time negative")

    def pause(self, error: RerankError, tried: int, spent_s: float, dice: float) -> float | None:
        """Seconds to wait before the next try, or None when there is none. Pure.

        `tried` requests were sent, the first one `spent_s` seconds ago; `dice` is of 0..1.
        """
        if not error.again or tried >= self.tries:
            return None
        if error.retry_after is not None:
            # Everyone was told the same time: jitter on top keeps them from coming at once.
            wait = error.retry_after + self.first_s * dice
        else:
            wait = min(self.first_s * 2.0 ** min(tried - 1, 60) * (1 + dice) / 2, self.cap_s)
        return wait if wait <= LONGEST_S and spent_s + wait <= self.budget_s else None


NEVER = Retry(tries=1)


@dataclass(frozen=True)
class Clock:
    """Where time and chance come from; tests give their own."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time  # since 1970, for dates in Retry-After
    dice: Callable[[], float] = random.random


def with_retries(
    send: Callable[[], T], retry: Retry, clock: Clock, sleep: Callable[[float], object]
) -> T:
    """What `send` returns, in as many tries as `retry` allows. Raises the last RerankError."""
    started, tried = clock.monotonic(), 0
    while True:
        tried += 1
        try:
            return send()
        except RerankError as error:
            pause = retry.pause(error, tried, clock.monotonic() - started, clock.dice())
            if pause is None:
                raise
        sleep(pause)


async def with_retries_async(
    send: Callable[[], Awaitable[T]],
    retry: Retry,
    clock: Clock,
    sleep: Callable[[float], Awaitable[object]],
) -> T:
    """As `with_retries`, awaiting."""
    started, tried = clock.monotonic(), 0
    while True:
        tried += 1
        try:
            return await send()
        except RerankError as error:
            pause = retry.pause(error, tried, clock.monotonic() - started, clock.dice())
            if pause is None:
                raise
        await sleep(pause)
