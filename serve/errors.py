"""Every exception that this server raises on purpose, each with what the caller is told.

ServeError
├── ConfigError             a configuration that cannot be used (command line: exit 2)
├── StartError              a server that cannot start or go on (command line: exit 1)
└── RequestError            answered over HTTP with `status`, `code` and the message
    ├── InvalidRequest      400  the body says something this server cannot do
    ├── Unauthorized        401  no key, or not one of ours
    ├── Forbidden           403  a web page of another origin, or a key for something else
    ├── NotFound            404  no such route or model
    ├── MethodNotAllowed    405
    ├── RequestTimeout      408  the request itself did not come in time
    ├── TooLarge            413  beyond a size of `limits:`, or a key's whole quota
    ├── Overloaded          429  beyond what is worth queueing; try again
    ├── QuotaExceeded       429  beyond what the key may use; try again later
    ├── InternalError       500  a fault of this program
    ├── EngineFault         502  the engine answered, but not with scores
    ├── Unavailable         503  no engine can answer at all
    └── DeadlineExceeded    504  the engine did not answer in time
"""

from collections.abc import Mapping
from typing import ClassVar

MOST_CHARS = 2000  # of a message, which may quote what a client sent


class ServeError(Exception):
    """The root of the tree above."""


class ConfigError(ServeError):
    """A configuration that cannot be used. `where` is `file:line` or `file`, if known."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)


class StartError(ServeError):
    """The server cannot start, or cannot go on. The message carries the remedy."""


def _bounded(words: str) -> str:
    """The words, or their beginning and their end, which has the remedy."""
    half = MOST_CHARS // 2
    return words if len(words) <= MOST_CHARS else f"{words[:half]} … {words[-half:]}"


class RequestError(ServeError):
    """What a client is told.

    `param` names the field at fault, with its index (`documents[3]`); `retry_after` is in
    seconds; `headers` are added to the answer.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = _bounded(message)
        self.param = param and _bounded(param)
        self.retry_after = retry_after

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP headers that belong to this answer."""
        return {"retry-after": str(self.retry_after)} if self.retry_after else {}


class InvalidRequest(RequestError):
    status, code = 400, "invalid_request"


class Unauthorized(RequestError):
    status, code = 401, "unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"www-authenticate": "Bearer"}


class Forbidden(RequestError):
    status, code = 403, "forbidden"


class NotFound(RequestError):
    status, code = 404, "not_found"


class MethodNotAllowed(RequestError):
    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> Mapping[str, str]:
        return {"allow": self.allow}


class RequestTimeout(RequestError):
    status, code = 408, "request_timeout"

    @property
    def headers(self) -> Mapping[str, str]:
        """What may still come is no request of its own."""
        return {"connection": "close"}


class TooLarge(RequestError):
    status, code = 413, "too_large"


class Overloaded(RequestError):
    status, code = 429, "overloaded"


class QuotaExceeded(RequestError):
    status, code = 429, "quota_exceeded"


class InternalError(RequestError):
    pass


class EngineFault(RequestError):
    status, code = 502, "engine_fault"


class Unavailable(RequestError):
    status, code = 503, "unavailable"


class DeadlineExceeded(RequestError):
    status, code = 504, "deadline_exceeded"

    @property
    def headers(self) -> Mapping[str, str]:
        """OpenAI's SDK heeds it: what was too slow once would be three times the work."""
        return {"x-should-retry": "false"}
