"""What comes by wire, byte for byte: requests that offer to upgrade, and what is no HTTP."""

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import requests
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from serve.protocol import Protocol
from serve.rerank import sigmoid
from tests.fake_vllm import logit
from tests.harness import Server

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


def talk(segments: Sequence[bytes], answers: int = 1) -> list[Answer]:
    """The answers to `segments`, each of which our protocol gets by itself, on one connection."""

    async def run() -> list[Answer]:
        config = uvicorn.Config(echo, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        ours, theirs = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Protocol(config=config, server_state=state, app_state={}), ours
        )
        reader, writer = await asyncio.open_connection(sock=theirs)
        try:
            for segment in segments:
                if not transport.is_closing():
                    protocol.data_received(segment)
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                return [await read_answer(reader) for _ in range(answers)]
        finally:
            writer.close()
            transport.close()
            await asyncio.sleep(0)

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


HEADERS = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 50) for number in range(2000))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 200_000,
        b"POST /x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000,
        b"POST /x HTTP/1.1\r\n" + HEADERS,
        b"POST /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" + HEADERS,
        b"\r\n" * 100_000,
        chunked(BODY)[:-2] + HEADERS,  # behind the body
    ],
)
def test_a_head_without_end_is_refused(head: bytes):
    [*_, answer] = talk([head[at : at + 10_000] for at in range(0, len(head), 10_000)])
    told = json.loads(answer.body)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "more than 65536 bytes" in told["message"] == told["detail"] == told["error"]["message"]


def test_a_long_head_is_read():
    headers = OFFER + b"".join(HEADERS.splitlines(keepends=True)[:900])
    wire = request(BODY * 50_000, headers)
    for segments in ([wire], [wire[at : at + 10_000] for at in range(0, len(wire), 10_000)]):
        [answer] = talk(segments)
        assert (answer.status, len(answer.body)) == (200, 50_000 * len(BODY))


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


@pytest.mark.parametrize(
    "data",
    [
        b"CONNECT example.org:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /x HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\n" + OFFER + b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        b"POST /x HTTP/1.1\r\nA\r\n\r\n",
        b"POST /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_requests_that_are_refused(data: bytes):
    [answer] = talk([data])
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert "send HTTP/1.1" in json.loads(answer.body)["message"]


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
    connection.sendall(ask(["a"], query="!500") + ask(PASSAGES) + ask([]) + ask(PASSAGES)[:-5])
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
