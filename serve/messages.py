"""HTTP in and out: a request's body and id, a response of JSON."""

import asyncio
import gc
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http import HTTPStatus

import orjson
from starlette.requests import Request
from starlette.responses import Response

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
from serve.headers import REQUEST_ID

BODIES_BYTES = 512 * 1024 * 1024  # of all bodies that are being received
GAP_S = 15.0  # between two pieces of a body
BLOCK_BYTES = LARGE_BYTES = 256 * 1024

Handler = Callable[[Exchange], Awaitable[Response]]
_FIT_FOR_A_LOG = re.compile(r"[\x21-\x7e]{1,128}")


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
        self._clocks: set[asyncio.Timeout] = set()
        self._are_over = False

    async def read(self, request: Request) -> Body:
        """The JSON object of a request's body, refused before it is read whole where that is known.

        Raises TooLarge, RequestTimeout, Overloaded, Unavailable and InvalidRequest.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most:
            raise self._too_large()
        return _object(await self._receive(request))

    def end(self) -> None:
        """Reads no more of any: who is half through holds up a stop."""
        self._are_over = True
        for clock in self._clocks:
            if not clock.expired():
                clock.reschedule(0)

    async def _receive(self, request: Request) -> bytes:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._most_s
        blocks = [bytearray()]  # since one that grows and grows leaves holes wherever it has been
        size = 0
        try:
            first_s = 0 if self._are_over else min(self._gap_s, self._most_s)
            async with asyncio.timeout(first_s) as clock:  # none for what is there already
                self._clocks.add(clock)
                async for piece in request.stream():
                    if len(blocks[-1]) > BLOCK_BYTES:
                        blocks.append(bytearray())
                    blocks[-1] += piece
                    size += len(piece)
                    self._held += len(piece)
                    self._check(size)
                    if not self._are_over:
                        clock.reschedule(min(end, loop.time() + self._gap_s))
        except TimeoutError as error:
            raise (stopping() if self._are_over else self._too_slow()) from error
        finally:
            self._clocks.discard(clock)
            self._held -= size
        return b"".join(blocks)

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


def request_id(request: Request) -> str:
    """The client's own id, if it is fit to be written into a log, else a new one."""
    given = request.headers.get(REQUEST_ID, "")
    return given if _FIT_FOR_A_LOG.fullmatch(given) else f"{random.getrandbits(128):032x}"


def json_response(
    body: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    content = orjson.dumps(body)
    return Response(content, status_code, {"content-type": "application/json", **(headers or {})})


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
