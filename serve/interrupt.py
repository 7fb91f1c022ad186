"""Blocks that can be ended from outside: by a clock, by a client that leaves, by a stop.

What `asyncio.timeout` does, for an end of any kind, at a third of its cost: every request has
four of these.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Interrupt:
    """A block of a task. `now` cancels it, and its error is raised in place of the cancellation.

    Who cancels the task from outside is heard as ever. It waits for nothing.
    """

    __slots__ = ("_cancelled", "_error", "_task")

    def __init__(self) -> None:
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelled = task.cancelling()  # by others, before
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._error is None:
            return
        is_ours = self._task.uncancel() <= self._cancelled
        if is_ours and kind is asyncio.CancelledError:
            raise self._error from error

    def now(self, error: Exception) -> None:
        """Ends the block with `error`; the first one counts."""
        if self._error is None:
            self._error = error
            self._task.cancel()


class Alarm(Interrupt):
    """A block that ends after so many seconds, with what `error` makes. While it runs it is among
    the `running`: `Alarms.within` makes it.

    `put_off` gives it so many seconds from now. That costs nothing: the clock is looked at when it
    would have ended.
    """

    __slots__ = ("_at", "_loop", "_make", "_running", "_seconds", "_timer")

    def __init__(
        self, seconds: float, error: Callable[[], Exception], running: "set[Alarm]"
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._make = error
        self._running = running

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(self._at, self._ring)
        self._running.add(self)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._running.discard(self)
        super().__exit__(kind, error, trace)

    def put_off(self, seconds: float) -> None:
        self._at = self._loop.time() + seconds

    def ring(self) -> None:
        """Ends the block now."""
        self.now(self._make())

    def _ring(self) -> None:
        if self._at > self._loop.time():
            self._timer = self._loop.call_at(self._at, self._ring)
        else:
            self.ring()


class Alarms:
    """Those of blocks that one stop ends, those that run and whatever begins after it."""

    def __init__(self) -> None:
        self.are_over = False
        self._running: set[Alarm] = set()

    def within(self, seconds: float, error: Callable[[], Exception]) -> Alarm:
        """Ends its block after so many seconds, or when `end` is called, with what `error` makes
        then."""
        return Alarm(0 if self.are_over else seconds, error, self._running)

    def end(self) -> None:
        """Ends them all."""
        self.are_over = True
        for alarm in self._running:
            alarm.ring()
