"""API keys: who may use this server, and for what. Only the SHA-256 of a key is kept."""

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from serve.errors import ConfigError, Forbidden, Unauthorized

HEADERS = ("authorization", "x-api-key", "api-key")  # that a key may come in
WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
COUNTED = ("requests", "pairs")  # by quotas
SCOPES: Mapping[str, Collection[str]] = {"metrics": ("/metrics",)}  # `only=` → the paths it opens


@dataclass(frozen=True)
class Quota:
    """So many in a window of time, which is one of WINDOWS_S."""

    amount: int
    window: str

    def __str__(self) -> str:
        return f"{self.amount}/{self.window}"

    @property
    def seconds(self) -> int:
        return WINDOWS_S[self.window]


@dataclass(frozen=True)
class Key:
    """Who asks. `scope` is one of SCOPES, or None where everything is open; `where` the key stands,
    as `file:line`."""

    name: str
    digest: bytes = field(repr=False)
    quotas: Mapping[str, Quota] = field(default_factory=dict)  # by what they count, of COUNTED
    scope: str | None = None
    where: str = field(default="", compare=False)

    def check_scope(self, path: str) -> None:
        """Raises Forbidden where the key does not open `path`."""
        if self.scope is not None and path not in SCOPES[self.scope]:
            raise Forbidden(
                f"The key {self.name!r} opens {', '.join(SCOPES[self.scope])} only: use another one"
                f" here, or take `only={self.scope}` from its line in the API key file."
            )


class Keys:
    """The keys that may use this server. With none, everyone may."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Raises ConfigError for two keys that cannot be told apart."""
        self._keys = _distinct(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """From now on these. Raises ConfigError, and then nothing has changed."""
        found = _distinct(keys)
        if bool(found) != bool(self._keys):
            raise ConfigError("a server with keys cannot go on without, nor the other way: restart")
        self._keys = found

    def check(self, headers: Mapping[str, str]) -> Key | None:
        """Whose request this is; None where nobody needs a key. Raises Unauthorized.

        A key comes as `Authorization: Bearer`, as `Authorization` alone, `x-api-key` or `Api-Key`.
        """
        if not self._keys:
            return None
        token = _given(headers)
        given = digest(token.encode("latin-1", "replace"))  # as it came by wire
        found = None
        for key in self._keys:  # all of them, so that the time does not tell which one was near
            if hmac.compare_digest(given, key.digest):
                found = key
        if found is None or not token:
            which = ", and the one that came is none of its keys" if token else ""
            raise Unauthorized(
                f"This server needs an API key{which}: send one of them as `Authorization: Bearer"
                " KEY` or `x-api-key: KEY`."
            )
        return found


def _distinct(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The keys, none of which has another's name or is another. Raises ConfigError."""
    found = tuple(keys)
    names: dict[str, Key] = {}
    digests: dict[bytes, Key] = {}
    for key in found:
        if before := names.get(key.name):
            words = f"{before.where} has a key named {key.name!r} too: name one of them anew"
            raise ConfigError(words, key.where)
        if before := digests.get(key.digest):
            words = f"the key is that of {before.name!r} in {before.where}: take one of them out"
            raise ConfigError(words, key.where)
        names[key.name] = digests[key.digest] = key
    return found


def _given(headers: Mapping[str, str]) -> str:
    """The key that came, or nothing. Raises Unauthorized for two in headers of the same name:
    which one a proxy before us has looked at, nobody knows."""
    given: dict[str, str] = {}
    for name, value in headers.items():
        if name in given:
            raise Unauthorized(f"This request has more than one {name} header: send one key.")
        if name in HEADERS:
            given[name] = value
    scheme, _, token = given.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer":  # a key without its scheme: some clients send what they have
        token = "" if token else scheme
    return token.strip() or given.get("x-api-key") or given.get("api-key") or ""


def digest(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()
