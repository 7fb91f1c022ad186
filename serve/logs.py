"""What the server's own log looks like, and the lines in it that tell of requests.

No line holds a query or a passage, and nobody outside can forge one: what is not plain is escaped.
"""

import json
import logging
import re
import time
import zlib
from collections.abc import Mapping
from typing import Literal

from serve.exchange import Exchange

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")

log = logging.getLogger(__name__)

_BARE = re.compile(r"[!#-<>-~]+")  # ASCII without space, `"` and `=`
# What would begin a line, move a terminal's cursor or hide text; a line break gets an indent.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F))}
_ESCAPES |= {ord("\t"): "\t", ord("\n"): "\n    "}
_MOST_CHARS = 64  # of a client's address, which a proxy may have told


def configure(format: Format) -> None:
    """Has everything that is logged printed to stderr, unless that is arranged already."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(format))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def formatter(format: Format) -> logging.Formatter:
    """What makes lines of what is logged."""
    return _json() if format == "json" else _Text()


class _Text(logging.Formatter):
    """The time and the message; of fields, `name=value` for each."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Mapping):
            words = (
                _plain(value) if name == "message" else f"{name}={_plain(value)}"
                for name, value in record.msg.items()
            )
            return " ".join((self.formatTime(record, self.datefmt), *words))
        return super().format(record).translate(_ESCAPES)


def _plain(value: object) -> str:
    """A value as it is, or in quotes if it could be taken for more than one."""
    words = str(value)
    return words if _BARE.fullmatch(words) else json.dumps(words)


def _json() -> logging.Formatter:
    """One JSON object a line, in ASCII: fields stand beside `level`, `logger` and `time`."""
    from pythonjsonlogger.json import JsonFormatter

    names = {"levelname": "level", "name": "logger"}
    return JsonFormatter([*names, "message"], rename_fields=names, timestamp="time")


class AccessLog:
    """A line for each request that the server itself has failed, and for `share` (0 to 1) of the
    others: those whose ids say so, which are the same on every server that logs the same share.

    A refusal (429) is none of its failures: `rerank_shed_requests_total` counts them, and a line
    for each would cost most when there is least to spare.
    """

    def __init__(self, share: float = 0.0) -> None:
        self._share = share

    def answered(self, exchange: Exchange, status: int) -> None:
        """One request, answered."""
        has_failed = status >= 500 and exchange.error is not None
        if has_failed or (self._share and _place(exchange.id) < self._share):
            log.log(logging.WARNING if has_failed else logging.INFO, fields(exchange, status))


def _place(id: str) -> float:
    """Where an id stands among all: at least 0, below 1."""
    return zlib.crc32(id.encode()) / 2**32


def fields(exchange: Exchange, status: int) -> dict[str, object]:
    """What is logged of a request, without what is not known of it."""
    request = exchange.request
    known = {
        "message": "answered",
        "request_id": exchange.id,
        "method": request.method,
        "route": exchange.route,
        "status": status,
        "error": exchange.error,
        "ms": round((time.monotonic() - exchange.started) * 1000, 1),
        "waited_ms": round(exchange.waited * 1000, 1) if exchange.pairs else None,
        "dialect": exchange.dialect.name if exchange.dialect else None,
        "model": exchange.model,
        "pairs": exchange.pairs or None,
        "key": exchange.key.name if exchange.key else None,
        "client": request.client.host[:_MOST_CHARS] if request.client else None,
    }
    return {name: value for name, value in known.items() if value is not None}
