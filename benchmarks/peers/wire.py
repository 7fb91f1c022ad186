"""A closed loop as lean as it gets: whole requests made beforehand, answers counted by their heads.

Where proxy, engine and clients share a few cores, what a general HTTP client costs would be most of
what is measured.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

ROUTE = "/rerank"


@dataclass(frozen=True)
class Address:
    """A port of loopback, or a Unix socket."""

    port: int = 0
    socket: str | None = None


@dataclass(frozen=True)
class Rate:
    """Requests that were answered, and in how many seconds."""

    requests: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class WrongAnswer(Exception):
    """An answer that is not 200, or none."""


def request(body: bytes, key: str) -> bytes:
    """A whole request of ROUTE, with an API key."""
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nhost: peer\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(address: Address, requests: Sequence[bytes], *, clients: int, seconds: float) -> Rate:
    """`clients` that each ask again once they are answered. Raises WrongAnswer."""
    return uvloop.run(_load(address, requests, clients, seconds))


def ask(address: Address, whole: bytes) -> bytes:
    """The body of the answer to a whole request. Raises WrongAnswer."""
    return uvloop.run(_ask(address, whole))


async def _load(address: Address, requests: Sequence[bytes], clients: int, seconds: float) -> Rate:
    todo = itertools.cycle(requests)
    begin = time.perf_counter()
    each = [_Client(todo, begin + seconds) for _ in range(clients)]
    try:
        await asyncio.gather(*(_connect(address, client) for client in each))
        await asyncio.gather(*(client.done for client in each))
    except OSError as error:
        raise WrongAnswer(f"no connection: {error}") from error
    finally:
        for client in each:
            client.close()
    return Rate(sum(client.answered for client in each), time.perf_counter() - begin)


async def _ask(address: Address, whole: bytes) -> bytes:
    client = _Client(iter([whole]), 0.0)
    try:
        await _connect(address, client)
        await client.done
    except OSError as error:
        raise WrongAnswer(f"no connection: {error}") from error
    finally:
        client.close()
    return client.body


async def _connect(address: Address, client: "_Client") -> None:
    loop = asyncio.get_running_loop()
    if address.socket:
        await loop.create_unix_connection(lambda: client, address.socket)
    else:
        await loop.create_connection(lambda: client, "127.0.0.1", address.port)


class _Client(asyncio.Protocol):
    """Sends the next of `todo` when the last is answered, at least one, until the clock says
    `end`; then `done`."""

    def __init__(self, todo: Iterator[bytes], end: float) -> None:
        self._todo, self._end = todo, end
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered = 0
        self.body = b""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(next(self._todo))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            told = self.body[:200].decode(errors="replace")
            return self._fail(f"status {self._parser.get_status_code()}: {told}")
        self.answered += 1
        assert self._transport is not None
        if time.perf_counter() < self._end:
            self._transport.write(next(self._todo))
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, words: str) -> None:
        if not self.done.done():
            self.done.set_exception(WrongAnswer(words))
