"""Every exception of these clients, the same from each of them.

RerankError
├── Refused             the server answered, but not with a ranking: `status`, `param`, the message
│   ├── BadRequest      400 and any other 4xx: the request asks for what this server cannot do
│   ├── Unauthorized    401, 403: no key, or not one of the server's
│   ├── NotFound        404, 405, 3xx: no such route or model
│   ├── TooLarge        413: beyond a size that the server takes
│   ├── Overloaded      429: beyond what it queues, or the key's quota; tried again, after
│   │                   `retry_after` seconds
│   └── ServerFault     5xx; a proxy's own 502 is tried again: the server behind it may be starting
│       └── Unavailable 503: it cannot answer now; tried again, after `retry_after` seconds
├── Unreachable         there is no connection, or it broke; tried again where that can help
├── TimedOut            no answer in time
└── BadAnswer           an answer that is not one finite score for each passage

A `TimedOut` and a 504 are not tried again: the server may still be at work on the first request,
and one that is slow under load would get everything several times. Nor is the server's own 502: its
engine answers the same pairs with the same fault.
"""

import json
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

TRIED_AGAIN = frozenset({429, 502, 503})
ENGINE_FAULT = "engine_fault"
LONGEST_QUOTE = 500  # characters of an answer that is not ours
SYSTEM = frozenset({"builtins", "socket", "ssl", "http.client"})  # whose words are short
# What OpenSSL says, by its versions, of an answer in plain HTTP.
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


class RerankError(Exception):
    """The root of the tree above. `again` says whether the same request may fare better soon."""

    again: bool = False
    retry_after: float | None = None  # seconds that the server asked to wait


class Refused(RerankError):
    def __init__(
        self,
        message: str,
        *,
        status: int,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param  # the field at fault, with its index: `documents[3]`
        self.code = code  # the server's word for this kind of error: `invalid_request`
        self.retry_after = retry_after
        self.again = status in TRIED_AGAIN and not (status == 502 and code == ENGINE_FAULT)

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class BadRequest(Refused):
    pass


class Unauthorized(Refused):
    pass


class NotFound(Refused):
    pass


class TooLarge(Refused):
    pass


class Overloaded(Refused):
    pass


class ServerFault(Refused):
    pass


class Unavailable(ServerFault):
    pass


class Unreachable(RerankError):
    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class TimedOut(RerankError):
    pass


class BadAnswer(RerankError):
    pass


_BY_STATUS: Mapping[int, type[Refused]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: NotFound,
    413: TooLarge,
    429: Overloaded,
    503: Unavailable,
}


def refusal(status: int, body: object, headers: Mapping[str, str], *, now: float) -> RerankError:
    """The exception for an answer that is no success. Pure.

    `body` is its JSON or text; `headers` its headers in any case; `now` the time in seconds since
    1970, against which a date in Retry-After counts when the answer has no Date of its own.
    """
    low = {name.lower(): value for name, value in headers.items()}
    message, inner = _read(body)
    if 200 <= status < 300:
        return BadAnswer(f"the answer is not a ranking: {message}")
    if 300 <= status < 400:
        message = f"sends elsewhere: name {low.get('location', 'that address')!r} instead"
    return _kind(status)(
        message or "no reason given",
        status=status,
        param=_text(inner.get("param")),
        code=_text(inner.get("type")),
        retry_after=retry_after(low.get("retry-after"), low.get("date"), now=now),
    )


def _kind(status: int) -> type[Refused]:
    if status >= 500:
        return _BY_STATUS.get(status, ServerFault)
    return _BY_STATUS.get(status, BadRequest if status >= 400 else NotFound)


def why(error: BaseException) -> str:
    """Why there is no connection: the system's own words, if it said any. Those of what is around
    them name addresses and objects over and over."""
    said = _of_the_system(error)
    if said is None:
        return str(error)[:LONGEST_QUOTE] or type(error).__name__
    if getattr(said, "reason", None) in NO_TLS:
        return "what answers there speaks no TLS: is its address one with http://, or another port?"
    return said.strerror or str(said) or type(said).__name__


def is_tls_refusal(error: BaseException) -> bool:
    """Whether a certificate or the other's TLS is at fault, which stays so; a connection that
    broke off in the middle of it is another matter."""
    said = _of_the_system(error)
    return isinstance(said, ssl.SSLError) and not isinstance(said, ssl.SSLEOFError)


def _of_the_system(error: BaseException) -> OSError | None:
    """The system's own exception, of which SDKs made theirs."""
    inner: BaseException | None = error
    for _ in range(9):  # deeper than any goes
        if inner is None:
            break
        if isinstance(inner, OSError) and type(inner).__module__ in SYSTEM:
            return inner
        nested = (inner.__cause__, *inner.args)
        inner = next((part for part in nested if isinstance(part, BaseException)), None)
    return None


def retry_after(header: str | None, date: str | None, *, now: float) -> float | None:
    """Seconds to wait, of a Retry-After that holds seconds or an HTTP date; None if it has none.

    A date is held against the answer's own `date`, so that two clocks need not agree.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        until = _timestamp(header)
        if until is None:
            return None
        since = _timestamp(date or "")
        seconds = until - (now if since is None else since)
    return max(0.0, seconds) if seconds < float("inf") else None  # also drops NaN


def _timestamp(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _read(body: object) -> tuple[str, Mapping[str, object]]:
    """The message of our server's error body, a like one or a plain text; and the object `error`
    in it, which has the rest."""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return str(body).strip()[:LONGEST_QUOTE], {}
    if not isinstance(body, Mapping):
        return json.dumps(body, default=str)[:LONGEST_QUOTE], {}
    error = body.get("error")
    inner: Mapping[str, object] = error if isinstance(error, Mapping) else {}
    message = body.get("message") or inner.get("message") or body.get("detail") or error
    text = _text(message) or json.dumps(message or body, default=str)
    return text[: 4 * LONGEST_QUOTE], inner


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
