"""HTTP/1.1 on the wire: uvicorn's protocol over httptools, stricter, and with clocks."""

import asyncio
from collections.abc import Sized
from enum import Enum
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serve import heads
from serve.clocks import Taking, Timer
from serve.errors import Overloaded, RequestError, RequestTimeout
from serve.leaving import left
from serve.messages import last_answer
from serve.tls import Connection
from serve.together import Together
from serve.upgrades import Parser

MOST_WAITING = 32  # requests that came before the one before them was answered
HEAD_S = 15.0  # from the connection, or from a head's first byte, to its last
REST_S = 30.0  # for the rest of a body that was answered before its end
LINGER_S = 2.0  # for who still sends what was refused, so that the answer is read
TAKING_S = 60.0  # between two looks at who takes an answer


class _Place(Enum):
    """Where in a message the next byte is."""

    BETWEEN = "between two messages"
    HEAD = "head"
    BODY = "body"


class Protocol(HttpToolsProtocol):
    """What uvicorn's leaves open is bounded, before any key is asked for: how long a head may be
    and take, how many requests may wait on one connection, how long an answer may lie untaken.
    What is no HTTP, or could be read in two ways, is answered with JSON, once and in its turn.
    Over TLS, an idle connection is closed as fast as over TCP."""

    parser: Parser
    head_s: ClassVar[float] = HEAD_S
    rest_s: ClassVar[float] = REST_S
    taking_s: ClassVar[float] = TAKING_S

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = Parser(self)
        self._accepted = self.loop.time()  # before any handshake
        self._place = _Place.BETWEEN
        self._unread = 0  # bytes since the last that anything came of
        self._size = 0  # bytes of the head that is being read
        self._is_offer = False  # to upgrade, so that it will be read again
        self._serving: RequestResponseCycle | None = None  # the last one that has begun
        self._is_over = False  # nothing more is read
        self._refusal: RequestError | None = None  # which waits for its turn
        self._timer = Timer(self.loop)

    # -- what asyncio calls ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._taking = Taking(transport, Timer(self.loop), self.taking_s)
        self._timer.set(self._accepted + self.head_s - self.loop.time(), self._on_late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.clear()
        self._taking.end()
        for cycle in (self._serving, self.cycle):  # the last one that came may not be served yet
            if cycle is not None and not cycle.response_complete:
                _leave(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            ours = error.__context__
            self._refuse(ours if isinstance(ours, RequestError) else heads.not_http(str(error)))
            return
        if self._unread > heads.MOST_BYTES:
            self._refuse(heads.too_long())
        elif not self._timer.is_set and (
            self._place is _Place.HEAD or (self._unread and self._place is _Place.BETWEEN)
        ):
            self._timer.set(self.head_s, self._on_late_head)

    # -- what httptools calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_WAITING:
            words = f"{MOST_WAITING} requests wait on this connection: wait for their answers."
            raise Overloaded(words, retry_after=1)
        self._place, self._size = _Place.HEAD, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._size += len(url)
        if self._size > heads.MOST_BYTES:
            raise heads.too_long()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._place is not _Place.HEAD:
            return  # behind the body, where none may pass for one of the head's
        self._size += len(name) + len(value)
        if self._size > heads.MOST_BYTES:
            raise heads.too_long()
        if len(self.headers) >= heads.MOST_HEADERS:
            raise heads.too_many()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_offer = self.parser.has_offer()
        if self._is_offer:
            return
        heads.check(self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        self.cycle.transport = Together(self.cycle)  # type: ignore[assignment]
        self._timer.clear()
        self._place, self._unread = _Place.BODY, 0
        if not self.pipeline:
            self._serving = self.cycle

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_offer:
            return
        self._timer.clear()
        self._place, self._unread = _Place.BETWEEN, 0
        super().on_message_complete()
        self.flow.resume_reading()  # which a long body has stopped: who leaves must be seen

    def plain_head(self) -> bytes:
        """The head of the message being read, without its offer to upgrade."""
        version = self.parser.get_http_version().encode()
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)
        return heads.without_offer(line, self.headers)

    # -- answers -----------------------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        return self._serving is not None and not self._serving.response_complete

    def on_response_complete(self) -> None:
        if self._serving is not None:
            cast(Together, self._serving.transport).flush()
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        self._taking.watch()
        if following is not None:
            self._serving = following
        elif self._refusal is not None:
            self._tell(self._refusal)
        elif self._place is _Place.BODY:
            self._timer.set(self.rest_s, self.timeout_keep_alive_handler)

    def _refuse(self, error: RequestError) -> None:
        """Answers what no request has come of, after all that came before it, and reads no more."""
        self._is_over = True
        self._timer.clear()
        if self._place is _Place.BODY:
            if self.cycle is not self._serving:
                self.pipeline.popleft()  # it has not begun, and never will
                self.flow.resume_reading()  # which it has stopped: who leaves must be seen
            elif self.cycle.response_started:
                return self.transport.close()  # it has its answer
            else:
                _leave(self.cycle)
                return self._tell(error)
        if self._is_busy:
            self._refusal = error
        else:
            self._tell(error)
        return None

    def _tell(self, error: RequestError) -> None:
        """Says so, and closes the connection."""
        if self.transport.is_closing():
            return
        self.transport.write(last_answer(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._timer.set(LINGER_S, self.transport.close)
        else:
            self.transport.close()  # TLS waits by itself

    # -- the end -----------------------------------------------------------------------------------

    def _on_late_head(self) -> None:
        if self._is_busy or self.flow.read_paused:  # so it waits for us
            self._timer.set(self.head_s, self._on_late_head)
        elif self._place is _Place.HEAD:
            words = f"The headers did not come within {self.head_s:g} seconds: send them at once."
            self._refuse(RequestTimeout(words))
        else:
            self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        self._in_a_hurry()
        super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        connection = self._in_a_hurry()
        if connection and connection.has_parted:  # and waits already
            self.transport.abort()
        super().shutdown()

    def _in_a_hurry(self) -> Connection | None:
        """The connection's TLS, if it has one, which from now on waits for no goodbye."""
        connection = self.transport.get_extra_info("ssl_object")
        if not isinstance(connection, Connection):
            return None
        connection.waits = False
        return connection


def _leave(cycle: RequestResponseCycle) -> None:
    """Tells whoever works on a request that nobody waits for its answer."""
    cycle.disconnected = True
    cycle.message_event.set()
    left(cycle.scope)


class _Flow(FlowControl):
    """Reads nothing while requests wait: each answer would let as many in as one read holds."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
