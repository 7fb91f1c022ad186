"""Clocks of one connection: one timer at a time, and a look at who takes an answer how fast."""

import asyncio
from collections.abc import Callable

LEAST_TAKEN = 1024 * 1024  # bytes of an answer that must be taken between two looks


class Timer:
    """Does one thing later, unless it is told otherwise."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        """Forgets what it had to do, and does `then` in so many seconds."""
        self.clear()
        self._handle = self._loop.call_later(max(0.0, seconds), self._ring, then)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self, then: Callable[[], None]) -> None:
        self._handle = None
        then()


class Taking:
    """Ends a connection whose client does not take what was written to it: an answer that lies
    there is memory, and neither uvicorn nor asyncio would ever let go of it."""

    def __init__(self, transport: asyncio.Transport, timer: Timer, every_s: float) -> None:
        self._transport = transport
        self._timer = timer
        self._every_s = every_s

    def watch(self) -> None:
        """Looks at it from now on, until nothing is left to take."""
        left = self._transport.get_write_buffer_size()
        if left and not self._timer.is_set:
            self._timer.set(self._every_s, lambda: self._look(left))

    def end(self) -> None:
        self._timer.clear()

    def _look(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left and before - left < LEAST_TAKEN:
            self._transport.abort()
        else:
            self.watch()
