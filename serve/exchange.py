"""One request on its way to its answer, and what is known of it so far."""

import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits

from starlette.requests import Request

from serve.auth import Key
from serve.dialects.base import Dialect
from serve.headers import REQUEST_ID

_FIT_FOR_A_LOG = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class Exchange:
    """What a handler is given, and what is told of the request when it is answered.

    `id` is the client's own, if it is fit to be written into a log, else a new one; `headers` are
    by names in lower case: of several with one name, the first; `key` is the one that it came with,
    where keys are needed; `route` is the path in its one form, of a route that there is; `dialect`
    is set as soon as it is known; `model` and `pairs` when the request is understood; `error` is
    the code of the error that it is answered with. `started` is in seconds of the monotonic clock,
    `waited` in seconds.
    """

    request: Request
    id: str = ""
    started: float = field(default_factory=time.monotonic)
    headers: Mapping[str, str] = field(init=False)
    key: Key | None = None
    route: str | None = None
    dialect: Dialect | None = None
    model: str | None = None
    pairs: int = 0
    waited: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        # Looked up several times, for which Starlette's would go through all of them.
        raw = reversed(self.request.scope["headers"])
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
        if not self.id:
            given = self.headers.get(REQUEST_ID, "")
            self.id = given if _FIT_FOR_A_LOG.fullmatch(given) else f"{getrandbits(128):032x}"


# The request that a task works for, for what is told without it (Events.waited).
CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
