"""The least that a proxy in Python can be: it passes requests on, and knows nothing of them.

`python -m benchmarks.peers.relay PORT SOCKET` listens on PORT of loopback, before an engine on
SOCKET. It has what no HTTP proxy in Python is without (uvloop, httptools' parsers on both sides,
a connection to the engine for each of a client's) and nothing else: no key is checked, no JSON
read, no limit kept, nothing counted. What our gateway has less is the price of what it does.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop


class Side(asyncio.Protocol):
    """One connection of a pair. Whole messages go to the other side, with the head rewritten."""

    _HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    other: "Side"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = self._new_parser()

    def _new_parser(self) -> "httptools.HttpResponseParser | httptools.HttpRequestParser":
        return httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self.other.transport.write(self._head() % len(body) + body)

    def _head(self) -> bytes:
        return self._HEAD

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "other"):
            self.other.transport.close()


class Client(Side):
    """The client's side: its first bytes wait until the engine's side is there."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._early: list[bytes] = []
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    def _new_parser(self) -> httptools.HttpRequestParser:
        return httptools.HttpRequestParser(self)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_unix_connection(Side, self._socket)
        self.other.other = self
        for data in self._early:
            super().data_received(data)

    def data_received(self, data: bytes) -> None:
        if hasattr(self, "other"):
            self._parser.feed_data(data)
        else:
            self._early.append(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def _head(self) -> bytes:
        return b"POST " + self._path + b" HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\n\r\n"


async def _serve(port: int, socket: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(socket), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
