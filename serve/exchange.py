"""One request on its way to its answer, and what is known of it so far."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.requests import Request

from serve.auth import Key
from serve.dialects.base import Dialect


@dataclass(slots=True)
class Exchange:
    """What a handler is given, and what is told of the request when it is answered.

    `key` is the one that it came with, where keys are needed; `route` is the path in its one form,
    of a route that there is; `dialect` is set as soon as it is known; `model` and `pairs` when the
    request is understood; `error` is the code of the error that it is answered with. `started` is
    in seconds of the monotonic clock, `waited` in seconds.
    """

    request: Request
    id: str
    started: float = field(default_factory=time.monotonic)
    key: Key | None = None
    route: str | None = None
    dialect: Dialect | None = None
    model: str | None = None
    pairs: int = 0
    waited: float = 0.0
    error: str | None = None


# The request that a task works for, for what is told without it (Events.waited).
CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
