"""Keep-alive HTTP/1.1 connections over a Unix socket, for one request at a time each.

httptools parses; the rest is as little as an exchange with a server that we start ourselves needs.
A general client costs several times the processor time (benchmarks/LOG.md), on the path of every
request. Raises OSError when the peer is not there or goes away, TimeoutError when it is too slow,
httptools.HttpParserError when what it says is not HTTP.
"""

import asyncio
from typing import cast

import httptools

Answer = tuple[int, bytes]  # status and body


class Connection(asyncio.Protocol):
    """One connection. `exchange` sends a request and waits for its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._chunks: list[bytes] = []
        self.is_open = False

    async def exchange(self, request: bytes, timeout_s: float | None) -> Answer:
        """Status and body of the answer to `request`, which is a whole HTTP request.

        When it fails, or is cancelled, the connection is closed: the peer sees that and stops.
        """
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._answer = answer
        timer = None
        if timeout_s is not None:
            timer = loop.call_later(timeout_s, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await answer
        except BaseException:
            self.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    @property
    def _is_waiting(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and self._is_waiting:
            self._answer.set_exception(error)

    # -- what asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if not self._is_waiting:
            return self.close()  # nobody asked: it must not answer the next request
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httptools.HttpParserError(str(error)))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._fail(exc or ConnectionResetError("the engine closed the connection"))

    # -- what httptools calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._chunks = []

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive() or not self._is_waiting:
            self.close()
        if self._answer is not None and self._is_waiting:
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._chunks)))


class Connections:
    """As many connections to one Unix socket as there are requests at once."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._idle: list[Connection] = []

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout_s: float | None,
        headers: str = "",
    ) -> Answer:
        """Status and body of the answer. `timeout_s` bounds the exchange, if given; `headers` are
        more lines of the request's head, each with its end."""
        connection = await self._take()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{headers}\r\n"
        )
        answer = await connection.exchange(head.encode() + body, timeout_s)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(Connection, self._socket))[1]

    def close(self) -> None:
        """Closes those that wait for a request."""
        while self._idle:
            self._idle.pop().close()
