"""One request on its way to its answer, and what is known of it so far."""

import time
from dataclasses import dataclass, field

from starlette.requests import Request

from serve.dialects.base import Dialect


@dataclass(slots=True)
class Exchange:
    """What a handler is given, and what is told of the request when it is answered.

    `dialect` is set as soon as it is known; `model` and `pairs` when the request is understood.
    `started` is in seconds of the monotonic clock.
    """

    request: Request
    id: str
    started: float = field(default_factory=time.monotonic)
    dialect: Dialect | None = None
    model: str | None = None
    pairs: int = 0
