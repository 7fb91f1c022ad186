"""HTTP in and out: a request's body, a response of JSON."""

import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http import HTTPStatus

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

from serve.dialects.base import Body, render_error
from serve.engine import RETRY_AFTER_S
from serve.errors import (
    InvalidRequest,
    Overloaded,
    RequestError,
    RequestTimeout,
    TooLarge,
    Unavailable,
)
from serve.exchange import Exchange
from serve.interrupt import Alarms

BODIES_BYTES = 512 * 1024 * 1024  # of all bodies that are being received
GAP_S = 15.0  # between two pieces of a body
BLOCK_BYTES = LARGE_BYTES = 256 * 1024

Handler = Callable[[Exchange], Awaitable[Response]]
NOT_STORED = (b"cache-control", b"no-store")
_JSON = (b"content-type", b"application/json")


class Bodies:
    """Reads the bodies of requests. No one may have more than `most` bytes, nor take more than
    `most_s` seconds, nor stop for `gap_s`; all that are being received have `in_all` bytes at most.
    """

    def __init__(
        self, most: int, most_s: float, *, in_all: int = BODIES_BYTES, gap_s: float = GAP_S
    ) -> None:
        self._most = most
        self._most_s = most_s
        self._in_all = in_all
        self._gap_s = gap_s
        self._held = 0
        self._alarms = Alarms()

    async def read(self, exchange: Exchange) -> Body:
        """The JSON object of a request's body, refused before it is read whole where that is known.

        Raises TooLarge, RequestTimeout, Overloaded, Unavailable and InvalidRequest.
        """
        declared = exchange.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most:
            raise self._too_large()
        return _object(await self._receive(exchange.request.receive))

    def end(self) -> None:
        """Reads no more of any: who is half through holds up a stop."""
        self._alarms.end()

    async def _receive(self, receive: Receive) -> bytes:
        end = time.monotonic() + self._most_s
        first_s = min(self._gap_s, self._most_s)
        size = 0
        with self._alarms.within(first_s, self._late) as alarm:  # none for what is there already
            try:
                piece, is_last = await _piece(receive)
                room = min(self._most, self._in_all - self._held)
                if is_last and len(piece) <= room:  # mostly
                    return piece
                blocks = [bytearray()]  # as one that grows leaves holes wherever it has been
                while True:
                    if len(blocks[-1]) > BLOCK_BYTES:
                        blocks.append(bytearray())
                    blocks[-1] += piece
                    size += len(piece)
                    self._held += len(piece)
                    self._check(size)
                    if is_last:
                        return b"".join(blocks)
                    if not self._alarms.are_over:
                        alarm.put_off(min(end - time.monotonic(), self._gap_s))
                    piece, is_last = await _piece(receive)
            finally:
                self._held -= size

    def _late(self) -> RequestError:
        return stopping() if self._alarms.are_over else self._too_slow()

    def _check(self, size: int) -> None:
        if size > self._most:
            raise self._too_large()
        if self._held > self._in_all:
            raise Overloaded(
                f"The bodies that are being received come to more than {self._in_all} bytes: try"
                " again, or send fewer passages at once.",
                retry_after=RETRY_AFTER_S,
            )

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body is longer than {self._most} bytes: send fewer passages, or raise"
            " `limits: {body_bytes: …}`.",
            param="body",
        )

    def _too_slow(self) -> RequestTimeout:
        return RequestTimeout(
            f"The body did not come whole: nothing for {self._gap_s:g} seconds, or not its end"
            f" within {self._most_s:g}: send it at once.",
            param="body",
        )


async def _piece(receive: Receive) -> tuple[bytes, bool]:
    """Some of a body, and whether it is the end of it. Raises ClientDisconnect."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect()
    return message.get("body", b""), not message.get("more_body", False)


def stopping() -> Unavailable:
    """What is told to who comes while the server stops."""
    return Unavailable("The server is stopping: try again.", retry_after=RETRY_AFTER_S)


def _object(received: bytes) -> Body:
    try:
        with _uncollected() if len(received) > LARGE_BYTES else nullcontext():
            body = orjson.loads(received)
    except orjson.JSONDecodeError as error:
        words = f"The body is not JSON: {error}: send an object of JSON in UTF-8."
        raise InvalidRequest(words, param="body") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    return body


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage, of which JSON makes none: it would look through millions of
    lists again and again while they are made, which is most of the time that they take."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Json(Response):
    """An answer of JSON, which nobody may store. `content` is its bytes."""

    def __init__(
        self, content: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        # Starlette's own goes through all headers for each that is set.
        self.status_code = status_code
        self.body = content
        self.background = None
        length = str(len(content)).encode()
        self.raw_headers = [_JSON, (b"content-length", length), NOT_STORED]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.encode("latin-1"), value.encode("latin-1")))


def json_response(
    body: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Json(orjson.dumps(body), status_code, headers)


def last_answer(error: RequestError) -> bytes:
    """What is sent, byte for byte, to who has made no request that could be answered otherwise."""
    content = orjson.dumps(render_error(error, ""))
    headers = {
        **error.headers,
        "content-type": "application/json",
        "content-length": str(len(content)),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode() + content
