"""API keys: kept only as SHA-256 digests, compared in constant time."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from serve.errors import ConfigError, Unauthorized

_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


class Keys:
    """The keys that may use this server. With none, everyone may."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """`keys` are keys as clients send them, or `sha256:` and the hex digest of one."""
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Unauthorized unless the request carries one of the keys.

        A key comes as `Authorization: Bearer`, as `Authorization` alone, `x-api-key` or `Api-Key`.
        """
        if not self._digests:
            return
        token = _given(headers)
        given = _digest_of(token.encode("latin-1", "replace"))  # as it came by wire
        # Every digest is compared, so that the time does not tell which one was near.
        if sum(hmac.compare_digest(given, known) for known in self._digests) == 0 or not token:
            which = ", and the one that came is none of its keys" if token else ""
            raise Unauthorized(
                f"This server needs an API key{which}: send one of them as `Authorization: Bearer"
                " KEY` or `x-api-key: KEY`."
            )


def read_keys(path: Path) -> list[str]:
    """The keys in a file: one a line, blank lines and `#` lines passed over. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API key file cannot be read: {error}", str(path)) from error
    keys = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("sha256:") and not _DIGEST.fullmatch(line):
            words = "`sha256:` needs the 64 hex digits of a key's SHA-256"
            raise ConfigError(words, f"{path}:{number}")
        keys.append(line)
    if not keys:
        raise ConfigError("the API key file has no key: write one a line", str(path))
    return keys


def _given(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer":  # a key without its scheme: some clients send what they have
        token = "" if token else scheme
    return token.strip() or headers.get("x-api-key") or headers.get("api-key") or ""


def _digest(key: str) -> bytes:
    ready = _DIGEST.fullmatch(key)
    return bytes.fromhex(ready[1]) if ready else _digest_of(key.encode("utf-8", "surrogateescape"))


def _digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
