"""Connections over a Unix socket, against peers that answer in all the ways of HTTP, and worse."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httptools
import pytest

from serve.connection import Connections

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture
def socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rerank-") as folder:
        yield str(Path(folder) / "s")


class Peer:
    """Answers each request with the next of `answers`: whole, in pieces, or (None) not at all.

    After an empty answer, and one that says so, it closes the connection.
    """

    def __init__(self, socket: str, *answers: bytes | list[bytes] | None) -> None:
        self.socket = socket
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.live = 0  # connections that are open now

    async def __aenter__(self) -> "Peer":
        self.server = await asyncio.start_unix_server(self.serve, self.socket)
        self.ours = Connections(self.socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ours.close()
        self.server.close()
        await self.until_closed()

    async def until_closed(self) -> None:
        async with asyncio.timeout(5):
            while self.live:
                await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.live += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    continue
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await asyncio.sleep(0.01)
                if b"close" in answer or not answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        self.live -= 1

    async def send(self, body: bytes = b"{}", timeout_s: float = 5) -> tuple[int, bytes]:
        return await self.ours.send("POST", "/score", body, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, (200, b"hi")),
        ([OK[:5], OK[5:30], OK[30:-1], OK[-1:]], (200, b"hi")),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", (404, b"")),
        (
            [
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
                b"4\r\n yo",
                b"u\r\n0\r\n\r\n",
            ],
            (200, b"hi you"),
        ),
    ],
    ids=["whole", "in pieces", "empty", "chunked"],
)
def test_answers(socket: str, answer: bytes | list[bytes], expected: tuple[int, bytes]):
    async def story() -> None:
        async with Peer(socket, answer) as peer:
            assert await peer.send(b'{"a": 1}') == expected
            assert peer.requests[0].startswith(b"POST /score HTTP/1.1\r\n")
            assert peer.requests[0].endswith(b'\r\n\r\n{"a": 1}')

    asyncio.run(story())


def test_a_connection_is_used_again(socket: str):
    async def story() -> None:
        async with Peer(socket, OK, OK, OK) as peer:
            for _ in range(3):
                await peer.send()
            assert peer.connections == 1

    asyncio.run(story())


def test_requests_at_once_have_connections_of_their_own(socket: str):
    async def story() -> None:
        async with Peer(socket, OK, OK, OK) as peer:
            answers = await asyncio.gather(*(peer.send() for _ in range(3)))
            assert answers == [(200, b"hi")] * 3
            assert peer.connections == 3

    asyncio.run(story())


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=["close", "HTTP 1.0", "upgrade"],
)
def test_a_connection_that_the_peer_ends_is_not_used_again(socket: str, first: bytes):
    async def story() -> None:
        async with Peer(socket, first, OK) as peer:
            assert (await peer.send())[0] in (200, 101)
            assert await peer.send() == (200, b"hi")
            assert peer.connections == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, TimeoutError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", TimeoutError),
        (b"", ConnectionResetError),
        (b"what is this?\r\n\r\n", httptools.HttpParserError),
    ],
    ids=["nothing", "half", "closed", "garbage"],
)
def test_a_failed_exchange_closes_its_connection(
    socket: str, answer: bytes | None, error: type[Exception]
):
    async def story() -> None:
        async with Peer(socket, answer, OK) as peer:
            with pytest.raises(error):
                await peer.send(timeout_s=0.2)
            await peer.until_closed()
            assert await peer.send() == (200, b"hi")  # by another connection
            assert peer.connections == 2

    asyncio.run(story())


def test_a_cancelled_exchange_closes_its_connection(socket: str):
    async def story() -> None:
        async with Peer(socket, None) as peer:
            asking = asyncio.create_task(peer.send())
            while not peer.requests:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await peer.until_closed()

    asyncio.run(story())


@pytest.mark.parametrize("pieces", [[OK + OK], [OK, OK]], ids=["at once", "later"])
def test_an_answer_that_nobody_asked_for_answers_nothing(socket: str, pieces: list[bytes]):
    other = OK.replace(b"hi", b"no")

    async def story() -> None:
        async with Peer(socket, pieces, other) as peer:
            assert await peer.send() == (200, b"hi")
            await peer.until_closed()
            assert await peer.send() == (200, b"no")
            assert peer.connections == 2

    asyncio.run(story())


def test_nobody_there(socket: str):
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(Connections(socket).send("GET", "/health", timeout_s=1))
