"""Bodies on their way in: too large, too slow, too many at once, and what is no JSON."""

import asyncio
import gc
import json
from typing import Any

import pytest
from starlette.requests import Request

from serve.errors import (
    InvalidRequest,
    Overloaded,
    RequestError,
    RequestTimeout,
    TooLarge,
    Unavailable,
)
from serve.exchange import Exchange
from serve.messages import LARGE_BYTES, Bodies, last_answer


class Incoming:
    """A request whose body comes in `pieces`: bytes, or None for no more of it for ever. Unless
    it `ends`, the last of them is repeated without end."""

    def __init__(
        self, *pieces: bytes | None, ends: bool = False, declared: str = "", each_s: float = 0
    ) -> None:
        self._pieces, self._ends = list(pieces), ends
        self._each_s = each_s
        headers = [(b"content-length", declared.encode())] if declared else []
        self.exchange = Exchange(Request({"type": "http", "headers": headers}, self._receive))
        self.taken = 0

    async def _receive(self) -> Any:
        if self.taken or self._each_s:
            await asyncio.sleep(self._each_s)
        piece = self._pieces[min(self.taken, len(self._pieces) - 1)]
        if piece is None:
            await asyncio.Event().wait()
        self.taken += 1
        more = not self._ends or self.taken < len(self._pieces)
        return {"type": "http.request", "body": piece, "more_body": more}


def whole(body: bytes) -> Incoming:
    """One whose body is there."""
    return Incoming(body, ends=True)


def run(work: Any) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(within())


def error_of(work: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run(work)
    return caught.value


def test_a_body_is_read_whole():
    body = b'{"query": "q", "passages": ["a", "b"]}'
    for incoming in (whole(body), Incoming(*(bytes([byte]) for byte in body), ends=True)):
        assert run(Bodies(len(body), 60).read(incoming.exchange)) == json.loads(body)


def test_what_says_that_it_is_too_large_is_not_read_at_all():
    incoming = Incoming(None, declared="11")
    error = error_of(Bodies(10, 60).read(incoming.exchange))
    assert isinstance(error, TooLarge) and "longer than 10 bytes" in error.message
    assert error.param == "body" and incoming.taken == 0


def test_what_is_too_large_is_read_no_further():
    incoming = Incoming(b"{    ", b"     ", b" ", None)
    assert isinstance(error_of(Bodies(10, 60).read(incoming.exchange)), TooLarge)
    assert incoming.taken == 3


@pytest.mark.parametrize("pieces", [(None,), (b"{", None), (b"{", b" ", None)])
def test_a_body_may_not_stop(pieces: tuple[bytes | None, ...]):
    error = error_of(Bodies(10, 60, gap_s=0.1).read(Incoming(*pieces).exchange))
    assert isinstance(error, RequestTimeout)
    assert (error.status, error.code, error.param) == (408, "request_timeout", "body")
    assert error.headers == {"connection": "close"}
    assert "nothing for 0.1 seconds" in error.message and error.message.endswith("at once.")


def test_a_body_that_goes_on_and_on_ends():
    drops = Incoming(b" ", each_s=0.01)
    error = error_of(Bodies(10**9, 0.3, gap_s=10).read(drops.exchange))
    assert isinstance(error, RequestTimeout) and "within 0.3" in error.message
    assert drops.taken > 1


def test_all_bodies_together_have_a_limit():
    async def work() -> list[Any]:
        bodies = Bodies(100, 60, in_all=250)
        held = [
            asyncio.create_task(bodies.read(Incoming(b" " * 90, None).exchange)) for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await bodies.read(whole(b"{" + b" " * 88 + b"}").exchange)
        assert caught.value.retry_after and "more than 250 bytes" in caught.value.message
        assert await bodies.read(whole(b"{}").exchange) == {}  # there is room for that
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        return [await bodies.read(whole(b"{" + b" " * 88 + b"}").exchange) for _ in range(9)]

    assert run(work()) == [{}] * 9  # nothing is held for ever


def test_a_stop_waits_for_no_body():
    async def work() -> list[BaseException | None]:
        bodies = Bodies(100, 3600, gap_s=3600)
        halves = [Incoming(None), Incoming(b"{", None), Incoming(b" ", each_s=0.001)]
        reading = [asyncio.create_task(bodies.read(half.exchange)) for half in halves]
        while not halves[2].taken:
            await asyncio.sleep(0.001)
        bodies.end()
        await asyncio.wait(reading)
        late = asyncio.create_task(bodies.read(Incoming(b"{", None).exchange))
        await asyncio.wait({late})
        assert await bodies.read(whole(b'{"is": "there"}').exchange) == {"is": "there"}
        bodies.end()
        return [task.exception() for task in [*reading, late]]

    for error in run(work()):
        assert isinstance(error, Unavailable), error
        assert error.retry_after == 5 and "stopping" in error.message


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"{]", b"{}{}", b'{"a": }', b'{"a": 1,}', b"{'a': 1}", b"{a: 1}"),
        *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 01}', b'{"a": +1}'),
        *(b'{"a": "\\ud800"}', b'{"a": "\\udc00\\ud800"}', b'{"a": "\\x"}', b'{"a": "\n"}'),
        *(b'{"a": "\x00"}', b'{"a": "\xff"}', b'{"a": "\xc0\xaf"}', b'{"a": "\xed\xa0\x80"}'),
        *(b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-32-le")),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 2000 + b"]" * 2000, b"\x00", b"{}\x00"),
        *(b"/**/{}", b"{} // x", b"query=q&passages=a", b"--x\r\ncontent-disposition: form-data"),
    ],
    ids=lambda body: f"{body[:24]!r}",
)
def test_what_is_no_json_is_told_so(body: bytes):
    error = error_of(Bodies(10**6, 60).read(whole(body).exchange))
    assert isinstance(error, InvalidRequest) and error.param == "body"
    assert error.message.startswith("The body is not JSON: ")
    assert error.message.endswith(": send an object of JSON in UTF-8.")


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true", b"1e400", b"9" * 400])
def test_what_is_no_object_is_told_so(body: bytes):
    error = error_of(Bodies(10**6, 60).read(whole(body).exchange))
    assert isinstance(error, InvalidRequest) and error.param == "body"
    assert "JSON" in error.message


@pytest.mark.parametrize("body", [b"[[" + b"[],[]," * LARGE_BYTES + b"[]]]", b"[" * LARGE_BYTES])
def test_large_bodies_leave_the_collector_as_it_was(body: bytes):
    for switch in (gc.disable, gc.enable):
        switch()
        error_of(Bodies(10**8, 60).read(whole(body).exchange))
        assert gc.isenabled() == (switch is gc.enable)


def test_the_last_answer_of_a_connection():
    head, _, body = last_answer(Overloaded("too much", retry_after=7)).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert {"retry-after: 7", "connection: close", f"content-length: {len(body)}"} <= {*lines}
    assert json.loads(body)["message"] == json.loads(body)["detail"] == "too much"
