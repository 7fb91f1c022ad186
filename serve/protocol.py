"""HTTP/1.1 on the wire: uvicorn's protocol over httptools, with four things mended."""

from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.dialects.base import render_error
from serve.errors import InvalidRequest, RequestError, TooLarge
from serve.tls import Connection

MOST_HEAD = 64 * 1024  # bytes of a request's line and headers, as others have it, and more


class Protocol(HttpToolsProtocol):
    """Takes an offer to upgrade (`Upgrade: h2c`, as Java's own client sends it with every request)
    for what it is, an offer: httptools would take all that follows the headers for the other
    protocol, and the request would lose its body. What is no HTTP is answered with JSON. And a head
    without end is refused: nothing else bounds it, and it comes before any key is asked for. Over
    TLS, an idle connection is closed as fast as over TCP."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = _Parser(self)
        self._head = 0  # bytes since the last of a body, or the last message

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > MOST_HEAD and not self.transport.is_closing():
            words = f"The headers come to more than {MOST_HEAD} bytes: send fewer or shorter ones."
            self._refuse(TooLarge(words))

    def plain_head(self) -> bytes:
        """The head of the message being read, without its offer."""
        line = b"%s %s HTTP/%s" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([line, *headers, b"\r\n"])

    def on_headers_complete(self) -> None:
        if not self._has_offer():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        if not self._has_offer():
            super().on_message_complete()

    def _has_offer(self) -> bool:
        """Whether the head just read is one that will be read again, without its offer."""
        if self.parser.get_method() == b"CONNECT":  # no offer: it wants another protocol
            raise httptools.HttpParserInvalidMethodError("CONNECT is for proxies")
        return self.parser.should_upgrade()

    def shutdown(self) -> None:
        connection = self._in_a_hurry()
        if connection and connection.has_parted:  # and waits already
            self.transport.abort()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self._in_a_hurry()
        super().timeout_keep_alive_handler()

    def _in_a_hurry(self) -> Connection | None:
        """The connection's TLS, if it has one, which from now on waits for no goodbye."""
        connection = self.transport.get_extra_info("ssl_object")
        if not isinstance(connection, Connection):
            return None
        connection.waits = False
        return connection

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(f"{msg} The connection is closed; send HTTP/1.1."))

    def _refuse(self, error: RequestError) -> None:
        """Answers what no request has come of, and closes the connection."""
        content = orjson.dumps(render_error(error, ""))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[error.status] + head % len(content) + content)
        self.transport.close()


class _Parser(httptools.HttpRequestParser):
    """Reads a head that has an offer to upgrade a second time, without it, and then the body.

    httptools stops behind such a head wherever it ends in what comes by wire, so no search through
    the bytes is needed, which would find heads in bodies.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def feed_data(self, data: Any) -> None:
        parser = self
        while True:
            try:
                return super(_Parser, parser).feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = self._protocol.plain_head() + data[offer.args[0] :]
                # A new one: behind a head that also says "close", the old one reads nothing more.
                parser = self._protocol.parser = _Parser(self._protocol)
