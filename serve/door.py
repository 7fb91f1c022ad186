"""Who may come in: connections are accepted here, and no more of them than there is room for.

uvicorn's own server accepts without end, until no descriptor is left to reach an engine with, and
gives a TLS handshake a minute, in which the protocol does not know of it.
"""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

import uvicorn

from serve.errors import Unavailable
from serve.messages import last_answer
from serve.protocol import HEAD_S

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 4096
RESERVED = 128  # descriptors: logs, pipes and sockets that are no client's
AT_ONCE = 64  # accepted before others have their turn
RETRY_S = 1.0  # where there is no descriptor left after all
RETRY_AFTER_S = 5


def raise_descriptors() -> int:
    """How many descriptors this process may have, which is raised to what it may be raised to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 2**31


def room(descriptors: int, engines: int) -> int:
    """How many clients may be connected: each takes a descriptor, and one more at every engine."""
    return max(1, min(MOST_CONNECTIONS, (descriptors - RESERVED) // (1 + engines)))


class Door:
    """Accepts what comes to `listener`, up to `most` connections. It stands in uvicorn's place of
    an asyncio.Server; `inside` are those that have a protocol of `make`."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        inside: Sized,
        most: int,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_s: float = HEAD_S,
    ) -> None:
        self._listener = listener
        self._make = make
        self._inside = inside
        self._most = most
        self._tls = tls
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[None]] = set()
        self._is_known_full = False
        self._is_open = True
        words = f"{most} connections are open and that is the limit: try again."
        self._full = last_answer(Unavailable(words, retry_after=RETRY_AFTER_S))
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accepts nobody more, and lets go of those whose handshake is not done."""
        self._is_open = False
        self._loop.remove_reader(self._listener)
        for task in self._arriving:
            task.cancel()

    async def wait_closed(self) -> None:
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # gone before its turn
                continue
            except OSError as error:
                log.error("no connection can be accepted: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(RETRY_S, self._listen)
                return
            self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        """Lets one in, or refuses it."""
        # Who has just come in is counted twice, for a moment.
        number = len(self._arriving) + len(self._inside)
        if number >= self._most:
            if not self._is_known_full:
                log.warning("%d connections are open: more are refused", number)
            self._is_known_full = True
            return self._refuse(connection)
        self._is_known_full &= number > self._most // 2  # told again only after a while
        task = self._loop.create_task(self._let_in(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return None

    def _refuse(self, connection: socket.socket) -> None:
        """Says so where that can be said without waiting, and closes the connection."""
        with connection, suppress(OSError):
            connection.setblocking(False)
            if self._tls is None:
                connection.send(self._full)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)  # what has come and is not read would take the answer along

    async def _let_in(self, connection: socket.socket) -> None:
        handshake_s = self._handshake_s if self._tls else None
        with suppress(OSError):  # who does not speak TLS, or is gone: nothing of ours
            await self._loop.connect_accepted_socket(
                self._make, connection, ssl=self._tls, ssl_handshake_timeout=handshake_s
            )


class HttpServer(uvicorn.Server):
    """uvicorn behind a door, for `most` connections, and without its signal handlers: it would
    raise the signal anew once it has stopped, and nothing behind it would run. Ours are installed
    before any engine is started."""

    def __init__(self, config: uvicorn.Config, most: int) -> None:
        super().__init__(config)
        self._most = most

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        make = partial(
            cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        inside, tls = self.server_state.connections, self.config.ssl
        doors = [Door(listener, make, inside, self._most, tls=tls) for listener in sockets or []]
        self.servers = doors  # type: ignore[assignment]  # as far as it uses them
        self.started = True
