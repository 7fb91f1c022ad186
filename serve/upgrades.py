"""Offers to upgrade to another protocol, which are taken for what they are: offers.

Java's own client sends `Upgrade: h2c` with every request. httptools would take all that follows the
headers for the other protocol, and the request would lose its body.
"""

from typing import Any, Protocol

import httptools

from serve.errors import InvalidRequest


class Reader(Protocol):
    """Who is called with what is parsed, and holds the parser."""

    parser: "Parser"

    def plain_head(self) -> bytes:
        """The head of the message being read, without its offer."""


class Parser(httptools.HttpRequestParser):
    """Reads a head that has an offer a second time, without it, and then the body.

    httptools stops behind such a head wherever it ends in what comes by wire, so no search through
    the bytes is needed, which would find heads in bodies.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self._reader = reader
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def has_offer(self) -> bool:
        """Whether the head just read is one that will be read again. Raises InvalidRequest."""
        if not self.should_upgrade():
            return False
        if self.get_method() == b"CONNECT":  # no offer: it wants another protocol
            raise InvalidRequest("CONNECT is for proxies: send HTTP/1.1.")
        return True

    def feed_data(self, data: Any) -> None:
        parser = self
        while True:
            try:
                return super(Parser, parser).feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = self._reader.plain_head() + data[offer.args[0] :]
                # A new one: behind a head that also says "close", the old one reads nothing more.
                parser = self._reader.parser = Parser(self._reader)
