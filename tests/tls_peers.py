"""What a client may meet in place of the right server: a TLS server that writes down what it is
sent, and a proxy that leads where it wants."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tests.certificates import Certificate

PATIENCE_S = 30  # of one that waits for a client which a test has failed for
RESULTS = [{"index": 0, "relevance_score": 0.75}, {"index": 1, "relevance_score": 0.25}]
RANKING = json.dumps({"results": RESULTS}).encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"


def answer(headers: bytes = b"") -> bytes:
    """A right answer to a request for two passages."""
    return OK % (len(RANKING), headers, RANKING)


class Listener:
    """A thread for each connection on a port of its own. Use as a context manager, whose end waits
    for the ends of all connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._take, args=(connection,)))
            self._threads[-1].start()

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        with connection, suppress(OSError):  # whoever connected is gone, as tests mean it
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class Script(Listener):
    """Does with each connection what a test says."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.serve = serve  # type: ignore[method-assign]


class Recorder(Listener):
    """A TLS server. The nth connection meets the nth certificate, or the last one; `received` are
    the bytes of each that came out of TLS, once its handshake was done. Every request is answered
    with `answer`. None for a certificate is plain HTTP."""

    def __init__(self, *certificates: Certificate | None, answer: bytes = answer()) -> None:
        super().__init__()
        self._contexts = [one and one.server_context() for one in certificates]
        self._answer = answer
        self.received: list[bytearray] = []
        self.connections = 0
        self.url = f"{'https' if certificates[0] else 'http'}://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        context = self._contexts[min(self.connections, len(self._contexts) - 1)]
        self.connections += 1
        if context is None:
            return self._read(connection)
        with context.wrap_socket(connection, server_side=True) as tls:
            self._read(tls)

    def _read(self, connection: socket.socket) -> None:
        self.received.append(whole := bytearray())
        request = b""
        while data := connection.recv(65536):
            whole += data
            request += data
            head, found, body = request.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            if found and len(body) >= int(length[1] if length else 0):
                request = b""
                connection.sendall(self._answer)


class Proxy(Listener):
    """One for HTTP that tunnels (CONNECT) to `port`, whatever is asked for."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._to, self._context = port, context
        self.asked: list[str] = []
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"

    def serve(self, connection: socket.socket) -> None:
        if self._context:
            connection = self._context.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := connection.recv(1)):
                return
            head += data
        self.asked.append(head.decode().splitlines()[0])
        with socket.create_connection(("127.0.0.1", self._to), timeout=PATIENCE_S) as target:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(target, connection))
            back.start()
            _pour(connection, target)
            back.join()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    """All that comes from one goes to the other, the end too."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
