"""Clients that go away: what was begun for them ends."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serve.interrupt import Interrupt

WATCH_AFTER_S = 0.05  # most requests are answered by then, and cost no task


class WhileConnected(Interrupt):
    """Ends its block with ClientDisconnect when the client disconnects.

    `receive` is the ASGI one of a request whose body has been read.
    """

    __slots__ = ("_after_s", "_receive", "_timer", "_watch")

    def __init__(self, receive: Receive, *, after_s: float = WATCH_AFTER_S) -> None:
        super().__init__()
        self._receive = receive
        self._after_s = after_s
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._after_s, self._begin)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        super().__exit__(kind, error, trace)

    def _begin(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.now(ClientDisconnect())
