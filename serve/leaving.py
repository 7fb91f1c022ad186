"""Clients that go away: what was begun for them ends."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

WATCH_AFTER_S = 0.05  # most requests are answered by then, and cost no task


class WhileConnected:
    """Cancels its block when the client disconnects, and raises ClientDisconnect in its place.

    `receive` is the ASGI one of a request whose body has been read. Who cancels the task from
    outside is heard as ever. It waits for nothing.
    """

    def __init__(self, receive: Receive, *, after_s: float = WATCH_AFTER_S) -> None:
        self._receive = receive
        self._after_s = after_s
        self._has_left = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelled = task.cancelling()  # by others, before
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._has_left:
            return
        is_ours = self._task.uncancel() <= self._cancelled
        if is_ours and isinstance(error, asyncio.CancelledError):
            raise ClientDisconnect from error

    def _begin(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._task.cancel()
