"""What comes by wire, byte for byte: requests that offer to upgrade, what is no HTTP, what could be
read in two ways, and what takes its time."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import requests
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from uvicorn.server import ServerState

from serve.leaving import WhileConnected
from serve.protocol import MOST_WAITING, Protocol
from tests.fake_vllm import logit
from tests.harness import Server
from tests.readers import sigmoid

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
TRAP = b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"  # in a body


def request(body: bytes, headers: bytes = OFFER, *, path: bytes = b"/x") -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n"
    return head % (path, headers, len(body)) + body


def chunked(body: bytes, headers: bytes = OFFER) -> bytes:
    head = b"POST /x HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n" % headers
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def slices(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The segments that `data` falls into when it is cut at `places`."""
    ends = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if start < end]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def echo(scope, receive, send) -> None:
    """Answers with the body that it got, and tells the headers."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    told = json.dumps({name.decode(): value.decode() for name, value in scope["headers"]})
    headers = [(b"x-told", told.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:-2])
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(head[0].split()[1]), headers, body)


class Quick(Protocol):
    """One that loses its patience soon."""

    head_s = rest_s = 0.5


@dataclass
class Wire:
    """Both ends of one connection."""

    protocol: Protocol
    transport: asyncio.Transport
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: ServerState

    async def receive(self, *segments: bytes) -> None:
        """The protocol gets each of `segments` by itself."""
        for segment in segments:
            if not self.transport.is_closing():
                self.protocol.data_received(segment)
            await asyncio.sleep(0)

    async def all(self) -> list[Answer]:
        """Every answer up to the end of the connection."""
        answers = []
        with suppress(asyncio.IncompleteReadError):
            while True:
                answers.append(await read_answer(self.reader))
        assert self.reader.at_eof() and await self.reader.read() == b""
        return answers


@asynccontextmanager
async def wired(app: Any = echo, kind: type[Protocol] = Protocol) -> AsyncIterator[Wire]:
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: kind(config=config, server_state=state, app_state={}), ours
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        async with asyncio.timeout(20):
            yield Wire(protocol, transport, reader, writer, state)
    finally:
        writer.close()
        if not transport.is_closing():
            transport.abort()
        await asyncio.sleep(0)


def talk(segments: Sequence[bytes], answers: int = 1) -> list[Answer]:
    """The answers to `segments`, each of which our protocol gets by itself, on one connection."""

    async def run() -> list[Answer]:
        async with wired() as wire:
            await wire.receive(*segments)
            return [await read_answer(wire.reader) for _ in range(answers)]

    return asyncio.run(run())


def end(*segments: bytes, app: Any = echo, kind: type[Protocol] = Protocol) -> list[Answer]:
    """All answers to `segments` up to the end of the connection, which the server makes."""

    async def run() -> list[Answer]:
        async with wired(app, kind) as wire:
            await wire.receive(*segments)
            return await wire.all()

    return asyncio.run(run())


BODY = b'{"a": 1}'


@pytest.mark.parametrize(
    "segments",
    [
        [request(BODY)],
        [request(BODY)[: -len(BODY)], BODY],
        [request(BODY)[:-3], BODY[-3:]],
        slices(request(BODY), range(200)),
        [chunked(BODY)],
        slices(chunked(BODY), range(300)),
        [request(BODY, b"Upgrade: h2c\r\nConnection: keep-alive, upgrade\r\n")],
        [request(BODY, b"UPGRADE: websocket\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")],
        [request(BODY, b"Connection: upgrade\r\nUpgrade:h2c\r\nExpect: x\r\n")],
        [request(BODY).replace(b"HTTP/1.1", b"HTTP/1.0", 1)],
        [request(BODY)[:40], request(BODY)[40:]],
        [request(BODY, b"Upgrade: h2c\r\n")],  # without `Connection` it is no offer
        [request(BODY, b"Upgrade-Insecure-Requests: 1\r\n")],
        [request(BODY, b"")],
    ],
)
def test_an_offer_to_upgrade_is_passed_over(segments: list[bytes]):
    [answer] = talk(segments)
    assert (answer.status, answer.body) == (200, BODY)
    told = json.loads(answer.headers["x-told"])
    if "connection" in told:
        assert "upgrade" not in told
    assert told["host"] == "x"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_offer_of_who_closes_the_connection_is_answered(version: bytes):
    headers = b"Connection: close, upgrade\r\nUpgrade: h2c\r\n"
    [answer] = talk([request(BODY, headers).replace(b"HTTP/1.1", b"HTTP/" + version, 1)])
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["connection"] == "close"


HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(90))
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
LONG = b"x" * 400_000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + LONG,
        b"GET /" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nX: " + LONG,
        b"POST /x HTTP/1.1\r\nHost: x\r\nX: " + LONG + b"\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\n" + HEADERS,
        b"POST /x HTTP/1.1\r\nHost: x\r\n" + HEADERS + b"Content-Length: 0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" + HEADERS,
        b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n" + HEADERS + b"\r\n",
        b"\r\n" * 200_000,
    ],
    ids=lambda head: f"{head[:50]!r}",
)
@pytest.mark.parametrize("size", [10_000, 256_000])
@pytest.mark.parametrize("before", [b"", request(b"")])
def test_a_head_without_end_is_refused(head: bytes, size: int, before: bytes):
    wire = before + head
    *others, answer = end(*(wire[at : at + size] for at in range(0, len(wire), size)))
    told = json.loads(answer.body)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "more than 65536 bytes" in told["message"] == told["detail"] == told["error"]["message"]
    assert [other.status for other in others] == [200] * bool(before)


def test_more_headers_than_anyone_sends_are_refused():
    [answer] = end(b"GET /x HTTP/1.1\r\nHost: x\r\n" + MANY)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "more than 100 headers" in json.loads(answer.body)["message"]


def test_what_stands_behind_a_body_is_bounded_and_no_header():
    begun = chunked(BODY)[:-2]
    for wire in ([begun + MANY, MANY], [begun, MANY[:40_000], MANY[40_000:]]):
        assert [answer.status for answer in end(*wire)] == [413]
    [answer] = talk([begun + b"x-api-key: mine\r\n\r\n"])
    assert answer.body == BODY and "x-api-key" not in json.loads(answer.headers["x-told"])


def test_a_long_head_is_read():
    headers = OFFER + b"".join(HEADERS.splitlines(keepends=True)[:60])
    wire = request(BODY * 50_000, headers)
    for segments in ([wire], [wire[at : at + 10_000] for at in range(0, len(wire), 10_000)]):
        [answer] = talk(segments)
        assert (answer.status, len(answer.body)) == (200, 50_000 * len(BODY))
    nearly = request(BODY, b"X: %s\r\n" % (b"y" * 65_000))
    assert [answer.body for answer in talk([nearly * 3], 3)] == [BODY] * 3


def test_the_other_headers_stay_as_they_were():
    headers = b"X-A: 1\r\n%sX-B:  two words\r\nX-C: \xc3\xa9\r\nX-Empty:\r\n" % OFFER
    [answer] = talk([request(BODY, headers)])
    told = json.loads(answer.headers["x-told"])
    assert told == {
        "host": "x",
        "x-a": "1",
        "connection": "Upgrade, HTTP2-Settings",
        "http2-settings": "AAMAAABk",
        "x-b": "two words",
        "x-c": "é",
        "x-empty": "",
        "content-length": "8",
    }


def test_a_request_without_a_body():
    for segments in ([b"GET /x HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n"], [request(b"")]):
        [answer] = talk(segments)
        assert (answer.status, answer.body) == (200, b"")


bodies = st.binary(max_size=40) | st.just(TRAP) | st.just(BODY) | st.just(TRAP + BODY + TRAP)
offers = st.sampled_from([OFFER, b"", b"connection: Upgrade\r\nupgrade: websocket\r\n"])
messages = st.tuples(st.sampled_from([request, chunked]), bodies, offers)


@settings(max_examples=150)
@given(st.lists(messages, min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=8))
def test_every_body_arrives_byte_for_byte_in_any_segments(messages: list, cuts: list[int]):
    wire = b"".join(make(body, headers) for make, body, headers in messages)
    answers = talk(slices(wire, cuts), len(messages))
    assert [answer.body for answer in answers] == [body for _, body, _ in messages]
    assert {answer.status for answer in answers} == {200}


@settings(max_examples=50)
@given(st.binary(min_size=4, max_size=40).filter(lambda data: data.strip(b"\r\n")))
def test_what_is_no_http_is_told_so_in_json(data: bytes):
    [answer] = talk([data[:2], data[2:] + b"\r\n\r\n"])
    told = json.loads(answer.body)
    assert answer.status == told["error"]["code"] == 400
    assert answer.headers["connection"] == "close"
    assert told["message"] == told["detail"] == told["error"]["message"]


def post(headers: bytes, body: bytes = b"", *, version: bytes = b"1.1") -> bytes:
    return b"POST /x HTTP/%s\r\nHost: x\r\n%s\r\n\r\n%s" % (version, headers, body)


def coded(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body)


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
DOUBTFUL = [
    b"CONNECT example.org:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT /x HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    # Versions, and lines that are none.
    b"GET /x\r\n\r\n",
    b"GET /x HTTP/0.9\r\n\r\n",
    b"GET /x HTTP/2.0\r\nHost: x\r\n\r\n",
    b"GET /x HTTP/1.2\r\nHost: x\r\n\r\n",
    b"GET /x HTTP/11\r\nHost: x\r\n\r\n",
    b"GET /x http/1.1\r\nHost: x\r\n\r\n",
    b"get /x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET\t/x\tHTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x y HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x HTTP/1.1 \r\nHost: x\r\n\r\n",
    b" GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
    # Targets.
    b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET example.org:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http:///x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET javascript:x HTTP/1.1\r\nHost: x\r\n\r\n",
    # Hosts.
    b"GET /x HTTP/1.1\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /x HTTP/1.0\r\nHost: x\r\nhost: x\r\n\r\n",
    # Headers that are none.
    b"POST /x HTTP/1.1\r\nA\r\n\r\n",
    post(b": x"),
    post(b"A\0: b"),
    post(b"A: b\0c"),
    post(b"A: b\x01c"),
    post(b"A B: c"),
    post(b"A : b"),
    post(b"A\t: b"),
    post(b"A: b\r\n c"),
    post(b"A: b\r\n\tc"),
    post(b"A: b\rB: c"),
    post(b"A: b\nB: c"),
    post(b"A: b\n"),
    b"GET /x HTTP/1.1\nHost: x\n\n",
    b"GET /x HTTP/1.1\r\n Host: x\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: x\r\n\n",
    # Lengths.
    *(
        post(b"Content-Length: " + length, b"hello" + HIDDEN)
        for length in (
            *(b"x", b"", b"-5", b"+5", b"0x5", b"5.0", b"5e0", b"5,5", b"5, 5", b"5 5", b"5_0"),
            *(b"18446744073709551616", b"99999999999999999999999", b"\xd9\xa5", b'"5"', b"5;q"),
        )
    ),
    post(b"Content-Length: 5\r\nContent-Length: 6", b"hello" + HIDDEN),
    post(b"Content-Length: 5\r\nContent-Length: 5", b"hello" + HIDDEN),
    post(b"content-length: 5\r\nCONTENT-LENGTH: 0", b"hello" + HIDDEN),
    request(b"hello", OFFER + b"Content-Length: 1\r\n"),
    # Codings.
    post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    post(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + HIDDEN),
    post(b"Transfer-Encoding: identity\r\nContent-Length: 5", b"0\r\n\r\n" + HIDDEN),
    post(b"Transfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN, version=b"1.0"),
    *(
        post(b"Transfer-Encoding:" + coding, b"0\r\n\r\n" + HIDDEN)
        for coding in (
            *(b"", b" ", b" identity", b" gzip", b" gzip, chunked", b" chunked, gzip"),
            *(b" chunked, identity", b" identity, chunked", b" chunked, chunked", b" ,chunked"),
            *(b" xchunked", b" chunkedx", b" chunked;q=1", b' "chunked"', b" 'chunked'"),
            *(b"\x0bchunked", b" chunked\x0b", b" chunked\t", b"\r\n chunked", b" chun\tked"),
            *(b" chunked\r\nTransfer-Encoding: identity", b" chunked\r\nTransfer-Encoding: x"),
            *(b" identity\r\nTransfer-Encoding: chunked", b" \xe2\x84\xaahunked"),
            *(b" chunked\r\nTransfer-Encoding: chunked", b" x\r\nTransfer-Encoding: chunked"),
        )
    ),
    post(b"Transfer-Encoding : chunked", b"0\r\n\r\n" + HIDDEN),
    post(b"X: y\nTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    post(b"X: y\rTransfer-Encoding: chunked", b"0\r\n\r\n" + HIDDEN),
    # Chunks.
    *(
        coded(chunks + HIDDEN)
        for chunks in (
            *(b"fffffffffffffffff\r\nx\r\n0\r\n\r\n", b"-1\r\nx\r\n0\r\n\r\n"),
            *(b"+1\r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"\r\n1\r\nx\r\n0\r\n\r\n"),
            *(b"1 \r\nx\r\n0\r\n\r\n", b" 1\r\nx\r\n0\r\n\r\n", b"1g\r\nx\r\n0\r\n\r\n"),
            *(b"1\nx\r\n0\r\n\r\n", b"1\r\nx\n0\r\n\r\n", b"1\r\nx0\r\n\r\n"),
            *(b"1\r\nxy\r\n0\r\n\r\n", b"1;a\nx\r\n0\r\n\r\n", b"1;a\rx\r\n0\r\n\r\n"),
            *(b"1\r\nx\r\n0\n\n", b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n"),
            *(b"1\r\nx\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n\r\n0\r\n\r\n"),
        )
    ),
]


@pytest.mark.parametrize("wire", DOUBTFUL, ids=lambda wire: f"{wire[:90]!r}")
def test_what_could_be_read_in_two_ways_is_refused_once(wire: bytes):
    """At once, byte by byte, and behind a request that is answered."""
    for before, segments in (
        (0, [wire]),
        (0, [wire + HIDDEN]),
        (0, slices(wire, range(len(wire)))),
        (1, [request(BODY, b"") + wire]),
        (2, [request(BODY), request(BODY) + wire[:-1], wire[-1:]]),
    ):
        *others, answer = end(*segments)
        assert [other.status for other in others] == [200] * before
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        told = json.loads(answer.body)
        assert told["message"] == told["detail"] and "send HTTP/1.1" in told["message"]


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (post(b"Content-Length: 0000000000000000000005", b"hello"), b"hello"),
        (post(b"Content-Length:  5 ", b"hello"), b"hello"),
        (post(b"Transfer-Encoding:   CHUNKED", b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
        (coded(b"0005;a=b;c\r\nhello\r\n000\r\nX: y\r\n\r\n"), b"hello"),
        (post(b"Transfer_Encoding: chunked"), b""),  # another header
        (post(b"X: Transfer-Encoding: chunked"), b""),
        (b"\r\n" + post(b"X: y"), b""),  # as old clients end a body
        (b"POST http://y/x HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ],
    ids=lambda wire: f"{wire[:70]!r}",
)
def test_what_can_be_read_in_one_way_is_taken(wire: bytes, body: bytes):
    for segments in ([wire * 2], slices(wire * 2, range(2 * len(wire)))):
        answers = talk([*segments, request(BODY)], 3)
        assert [answer.body for answer in answers] == [body, body, BODY]


def test_behind_the_last_request_nothing_is_read():
    for last in (
        request(BODY, b"Connection: close\r\n"),
        request(BODY, b"").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        [answer] = end(last + HIDDEN)
        assert answer.body == BODY and answer.headers["connection"] == "close"
    [answer] = end(request(b"x", b"Connection: close\r\n"), b"NONSENSE\r\n\r\n")
    assert answer.body == b"x"


# -- refusals in their turn ------------------------------------------------------------------------


async def late(scope, receive, send) -> None:
    """Answers, but not at once."""
    await asyncio.sleep(0.1)
    await echo(scope, receive, send)


async def early(scope, receive, send) -> None:
    """Answers without a look at the body."""
    await send(
        {"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


BEGUN = post(b"Content-Length: 100000", b"{")
BROKEN = coded(b"5\r\nhello\r\nNONSENSE\r\n")


@pytest.mark.parametrize("bad", [b"NONSENSE\r\n\r\n", BROKEN, post(b"A : b")])
def test_a_refusal_comes_after_the_answers_to_what_came_before(bad: bytes):
    for segments in ([request(b"1") + request(b"2") + bad], [request(b"1"), request(b"2"), bad]):
        *answers, refusal = end(*segments, app=late)
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"1"), (200, b"2")]
        assert refusal.status == 400


def test_a_body_that_breaks_is_refused_and_nobody_works_on_it():
    heard: list[str] = []

    async def listen(scope, receive, send) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])

    for bad in (b"x\r\n", b"5\r\nhel"):
        heard.clear()
        [answer] = end(coded(b"5\r\nhello\r\n"), bad, b"NONSENSE", app=listen)
        assert answer.status == 400 and heard[-1] == "http.disconnect"


def test_a_body_that_breaks_when_it_is_answered_is_not_answered_again():
    [answer] = end(coded(b"5\r\nhello\r\n"), b"NONSENSE", app=early)
    assert answer.status == 401


def test_no_more_than_so_many_requests_wait_on_one_connection():
    *answers, refusal = end(b"".join(request(b"%d" % i) for i in range(MOST_WAITING + 5)), app=late)
    assert [answer.body for answer in answers] == [b"%d" % i for i in range(MOST_WAITING + 1)]
    assert (refusal.status, refusal.headers["connection"]) == (429, "close")
    assert refusal.headers["retry-after"] and "wait for their answers" in refusal.body.decode()


def test_nothing_is_read_while_requests_wait():
    async def run() -> None:
        async with wired(late) as wire:
            await wire.receive(request(b"1") + request(b"2") + request(b"3"))
            assert not wire.transport.is_reading()
            wire.writer.write(request(b"4"))
            assert (await read_answer(wire.reader)).body == b"1"
            assert not wire.transport.is_reading()  # 3 waits
            for number in (b"2", b"3", b"4"):
                assert (await read_answer(wire.reader)).body == number

    asyncio.run(run())


def test_who_leaves_is_gone_for_every_request_of_the_connection():
    left: list[str] = []

    async def listen(scope, receive, send) -> None:
        await receive()
        left.append((await receive())["type"])

    async def run() -> None:
        async with wired(listen) as wire:
            await wire.receive(request(b"1") + request(b"2"))
            wire.transport.abort()
            while not left:
                await asyncio.sleep(0)

    asyncio.run(run())
    assert left == ["http.disconnect"]


@pytest.mark.parametrize("body", [BODY, BODY * 50_000])
@pytest.mark.parametrize("behind", [b"", chunked(b"")[:-5] + b"zz\r\n"])
def test_who_leaves_is_seen_whatever_came_before(body: bytes, behind: bytes):
    """Behind a long body, and behind a second request that is none, nothing was read any more."""

    async def run() -> None:
        begun, gone = asyncio.Event(), asyncio.Event()

        async def work(scope, receive, send) -> None:
            while (await receive())["more_body"]:
                pass
            try:
                with WhileConnected(scope):
                    begun.set()
                    await asyncio.Event().wait()
            except ClientDisconnect:
                gone.set()

        async with wired(work) as wire:
            head = request(body).removesuffix(body)
            await wire.receive(head, body)  # which, if it is long, stops reading
            await begun.wait()
            await wire.receive(behind)
            wire.writer.transport.abort()
            await gone.wait()

    asyncio.run(run())


# -- slow ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"G", b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_head_must_come_in_time(begun: bytes, before: int):
    *answers, refusal = end(*[request(BODY)] * before, begun, kind=Quick)
    assert [answer.body for answer in answers] == [BODY] * before
    assert (refusal.status, refusal.headers["connection"]) == (408, "close")
    told = json.loads(refusal.body)
    assert told["error"]["type"] == "request_timeout" and "within 0.5 seconds" in told["message"]


@pytest.mark.parametrize("segments", [[], [b"\r\n"], [b"\r", b"\n\r\n"]])
@pytest.mark.parametrize("before", [0, 1])
def test_who_says_nothing_is_told_nothing(segments: list[bytes], before: int):
    if before and not segments:
        return  # which may take as long as connections idle
    answers = end(*[request(BODY)] * before, *segments, kind=Quick)
    assert [answer.body for answer in answers] == [BODY] * before


def test_a_drop_now_and_then_gains_no_time():
    async def run() -> list[Answer]:
        async with wired(kind=Quick) as wire:
            await wire.receive(b"GET /")
            answers = asyncio.create_task(wire.all())
            while not answers.done():
                wire.writer.write(b"x")
                await asyncio.sleep(0.02)
            return answers.result()

    assert [answer.status for answer in asyncio.run(run())] == [408]


def test_a_head_that_waits_for_an_answer_has_time():
    async def very_late(scope, receive, send) -> None:
        await asyncio.sleep(1.5)
        await echo(scope, receive, send)

    answer, refusal = end(request(BODY), b"GET /x", app=very_late, kind=Quick)
    assert (answer.status, refusal.status) == (200, 408)


def test_the_rest_of_a_body_that_was_answered_must_come_in_time():
    for more in ([], [b" " * 10]):
        assert [answer.status for answer in end(BEGUN, *more, app=early, kind=Quick)] == [401]
    rest = b" " * 99_999
    assert [answer.status for answer in talk_to(early, BEGUN, rest, request(b""))] == [401, 401]


def talk_to(app: Any, *segments: bytes) -> list[Answer]:
    """Two answers of an app."""

    async def run() -> list[Answer]:
        async with wired(app) as wire:
            await wire.receive(*segments)
            return [await read_answer(wire.reader) for _ in range(2)]

    return asyncio.run(run())


ANSWER = 20_000_000


async def large(scope, receive, send) -> None:
    headers = [(b"content-length", b"%d" % ANSWER)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * ANSWER})


class Taken(Protocol):
    """One that looks often at who takes its answer."""

    taking_s = 0.2


@pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"])
def test_who_does_not_take_an_answer_is_let_go(headers: bytes):
    async def run() -> None:
        async with wired(large, Taken) as wire:
            wire.writer.transport.pause_reading()
            await wire.receive(request(b"", headers))
            while wire.state.connections or wire.state.tasks:
                await asyncio.sleep(0.05)
            assert wire.transport.get_write_buffer_size() == 0

    asyncio.run(run())


def test_who_takes_it_slowly_gets_it_all():
    class Patient(Protocol):
        taking_s = 5.0

    async def run() -> int:
        async with wired(large, Patient) as wire:
            await wire.receive(request(b"", b"Connection: close\r\n"))
            length = 0
            while piece := await wire.reader.read(400_000):
                length += len(piece)
                await asyncio.sleep(0.05)
            return length

    assert asyncio.run(run()) > ANSWER


# -- the whole server --------------------------------------------------------------------------


@pytest.fixture
def connection(fake_server: Server) -> Iterator[socket.socket]:
    host, port = fake_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connected


def read(connection: socket.socket, answers: int = 1) -> list[tuple[int, Any]]:
    """Status and JSON of the next answers."""
    found = []
    with connection.makefile("rb") as stream:
        for _ in range(answers):
            status, length = int(stream.readline().split()[1]), 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found.append((status, json.loads(stream.read(length))))
    return found


def ask(passages: list[str], query: str = "q") -> bytes:
    body = json.dumps({"query": query, "passages": passages}).encode()
    return request(body, path=b"/rerank")


PASSAGES = [TRAP.decode(), "one"]
SCORES = [sigmoid(logit("q", passage)) for passage in PASSAGES]


@pytest.mark.parametrize("cuts", [[], [40], [100, 150, 160], [400]])
def test_java_asks_over_one_connection(connection: socket.socket, cuts: list[int]):
    for _ in range(2):
        for segment in slices(ask(PASSAGES), cuts):
            connection.sendall(segment)
        assert read(connection) == [(200, SCORES)]


def test_requests_that_wait_for_no_answer(connection: socket.socket):
    connection.sendall(ask(["a"], query="!short") + ask(PASSAGES) + ask([]) + ask(PASSAGES)[:-5])
    connection.sendall(ask(PASSAGES)[-5:])
    (status, error), *rest = read(connection, 4)
    assert (status, error["error"]["code"]) == (502, 502)
    assert rest == [(200, SCORES), (200, []), (200, SCORES)]


def test_the_server_serves_on(fake_server: Server, connection: socket.socket):
    connection.sendall(b"NONSENSE\r\n\r\n")
    assert read(connection)[0][0] == 400
    assert connection.recv(1) == b""
    answer = requests.post(
        fake_server.url + "/rerank",
        json={"query": "q", "passages": PASSAGES},
        headers={"Connection": "Upgrade", "Upgrade": "h2c"},
        timeout=20,
    )
    assert answer.json() == SCORES
