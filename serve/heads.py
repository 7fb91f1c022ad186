"""Pure: which request heads are taken: not too long, and to be read in one way only."""

from collections.abc import Sequence

from serve.errors import InvalidRequest, TooLarge

MOST_BYTES = 64 * 1024  # of a request's line and headers, as others have it, and more
MOST_HEADERS = 100

Header = tuple[bytes, bytes]  # its name in lower case


def check(version: str, headers: Sequence[Header]) -> None:
    """Raises InvalidRequest for a head of HTTP that a proxy before us may have read in another way,
    and passed for the end of a request what we take for the beginning of the next."""
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"HTTP/{version} is not spoken here: send HTTP/1.1.")
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise InvalidRequest(f"There are {hosts} Host headers: send HTTP/1.1 with one.")
    if b"transfer-encoding" not in names:
        return
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if version == "1.0" or codings != [b"chunked"]:
        raise InvalidRequest(
            "Transfer-Encoding may be `chunked` and nothing else: send HTTP/1.1 with that, or with"
            " a Content-Length."
        )


def without_offer(line: bytes, headers: Sequence[Header]) -> bytes:
    """The head without its offer to upgrade."""
    lines = [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([line, *lines, b"\r\n"])


def too_long() -> TooLarge:
    words = f"The headers come to more than {MOST_BYTES} bytes: send fewer or shorter ones."
    return TooLarge(words)


def too_many() -> TooLarge:
    return TooLarge(f"There are more than {MOST_HEADERS} headers: send fewer.")


def not_http(reason: str) -> InvalidRequest:
    """What is told of what no parser can read."""
    return InvalidRequest(f"This is no HTTP request ({reason}): send HTTP/1.1.")
