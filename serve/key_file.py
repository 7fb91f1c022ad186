"""Files of API keys, a line each: `[NAME] KEY [requests=100/minute] [pairs=20000/hour]` or
`[NAME] KEY only=metrics`.

No key has whitespace, and `sha256:` with the hex digest of a key stands for it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from serve import auth
from serve.auth import COUNTED, SCOPES, WINDOWS_S, Key, Quota
from serve.errors import ConfigError
from serve.reader import nearest

_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_QUOTA = re.compile(rf"([1-9][0-9]{{0,11}})/({'|'.join(WINDOWS_S)})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,31}")
_OPTIONS = (*COUNTED, "only")
# A name is followed by what looks like no option, not even a misspelt one; the first word is none,
# whatever it looks like. A key may end in `=`.
_OPTION = rf"(?:{'|'.join(_OPTIONS)})=|[a-z]+=[^=\s]"
_LINE = re.compile(rf"(?:(?P<name>\S+)\s+(?!{_OPTION}))?(?P<key>\S+)(?P<options>.*)")


def read_keys(path: Path) -> list[Key]:
    """The keys in a file: one a line, blank lines and `#` lines passed over. Raises ConfigError."""
    lines = enumerate(_lines(path), 1)
    return [_parse(line, f"key-{number}", where) for number, (where, line) in lines]


def read_plain(path: Path) -> list[str]:
    """The keys in a file that score, as clients send them: without those that it has only the
    digest of. Raises ConfigError."""
    found = [line for line in (_LINE.fullmatch(line) for _, line in _lines(path)) if line]
    keys = [line["key"] for line in found if not re.search(r"\sonly=", line["options"])]
    return [key for key in keys if not key.startswith("sha256:")]


def variable_key(name: str, value: str) -> Key:
    """The key of an environment variable, the whole of which it is. Raises ConfigError."""
    return Key("env", _digest(value, name), where=name)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """`file:line` and line, of those that hold a key."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API key file cannot be read: {error}", str(path)) from error
    held = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    held = [(number, line) for number, line in held if not line.startswith("#")]
    if not held:
        raise ConfigError("the API key file has no key: write one a line", str(path))
    return ((f"{path}:{number}", line) for number, line in held)


def _parse(line: str, default_name: str, where: str) -> Key:
    """The key of a line. What is wrong is told without a word of it, as any may be the key."""
    found = _LINE.fullmatch(line)
    assert found is not None  # of a line that is not blank
    name = found["name"] or default_name
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "what stands before the key is its name, of at most 32 letters, digits and . _ @ - with"
            " a letter or digit first: mend it, or write the key alone (it has no whitespace)",
            where,
        )
    options = _options(found["options"].split(), where)
    scope = options.pop("only", None)
    if scope is not None and scope not in SCOPES:
        raise ConfigError(f"only= may be {', '.join(SCOPES)}", where)
    quotas = {counted: _quota(counted, value, where) for counted, value in options.items()}
    if scope and quotas:
        raise ConfigError(f"only={scope} scores nothing: leave {'= and '.join(quotas)}= out", where)
    return Key(name, _digest(found["key"], where), quotas, scope, where)


def _options(words: Iterable[str], where: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        option, _, value = word.partition("=")
        if option not in _OPTIONS:
            known = ", ".join(f"{each}=" for each in _OPTIONS)
            raise ConfigError(
                f"unknown option behind the key{nearest(option, _OPTIONS)}; known: {known};"
                " a name stands before the key, and neither has whitespace",
                where,
            )
        if option in options:
            raise ConfigError(f"{option}= stands twice: leave one out", where)
        options[option] = value
    return options


def _quota(counted: str, value: str, where: str) -> Quota:
    found = _QUOTA.fullmatch(value)
    if not found:
        raise ConfigError(
            f"{counted}= must be a number from 1 on and a window, one of /{' /'.join(WINDOWS_S)}:"
            f" {counted}=100/minute",
            where,
        )
    return Quota(int(found[1]), found[2])


def _digest(key: str, where: str) -> bytes:
    """The SHA-256 of a key, or what stands for it. Raises ConfigError."""
    if not key.startswith("sha256:"):
        return auth.digest(key.encode("utf-8", "surrogateescape"))
    ready = _DIGEST.fullmatch(key)
    if not ready:
        raise ConfigError("`sha256:` needs the 64 hex digits of a key's SHA-256", where)
    return bytes.fromhex(ready[1])
