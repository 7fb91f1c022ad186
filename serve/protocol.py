"""HTTP/1.1 on the wire: uvicorn's protocol over httptools, with one thing mended."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """Takes an offer to upgrade (`Upgrade: h2c`, as Java's own client sends it with every request)
    for what it is, an offer: httptools would take all that follows the headers for the other
    protocol, and the request would lose its body."""

    _is_between = True  # requests: what comes next is a request line, never a body

    def data_received(self, data: bytes) -> None:
        if self._is_between:
            head, end, rest = data.partition(_HEAD_END)
            if end and b"pgrade" in head.lower():
                data = _UPGRADE.sub(b"", head) + end + rest
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._is_between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._is_between = True
        super().on_message_complete()
