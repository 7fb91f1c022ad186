"""Clients that go away: what was begun for them ends."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Scope

from serve.interrupt import Interrupt

_BLOCK = "while_connected"  # where a request's scope has the block that is running for it


class WhileConnected(Interrupt):
    """Ends its block with ClientDisconnect when the client of the request that `scope` is of
    leaves. ASGI would have `receive` awaited by a task of its own for that."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self._scope = scope

    def __enter__(self) -> Self:
        self._scope[_BLOCK] = self
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._scope[_BLOCK]
        super().__exit__(kind, error, trace)


def left(scope: Mapping[str, object]) -> None:
    """Nobody waits any more for the answer to the request that `scope` is of."""
    block = scope.get(_BLOCK)
    if isinstance(block, WhileConnected):
        block.now(ClientDisconnect())
