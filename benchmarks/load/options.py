"""Options of load, read from the command line: each refusal says what may be written."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.load.generator import TIMEOUT_S
from benchmarks.load.targets import DIALECTS, Target, of_route
from benchmarks.load.texts import Sizes, sizes
from benchmarks.outcome import UsageError
from serve.errors import ConfigError
from serve.key_file import read_plain


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is needed")
    return int(text)


def counts(text: str) -> Sequence[int]:
    """Several, with commas between them."""
    return [count(part) for part in text.split(",")]


def amount(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is needed")
    return value


seconds = amount


def amounts(text: str) -> Sequence[float]:
    """Several, with commas between them."""
    return [amount(part) for part in text.split(",")]


def exponent(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else amount(text)


def distribution(text: str) -> Sizes:
    try:
        return sizes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> str:
    """A base URL."""
    parts = urlsplit(text)
    try:
        is_right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL as http://127.0.0.1:8000 is")
    return text


def named(text: str) -> tuple[str, str]:
    """`NAME=URL`."""
    name, _, url = text.partition("=")
    if not name or not url:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=URL")
    return name, address(url)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Who is asked, and how: of every measurement of a server that the user names."""
    add = parser.add_argument
    spoken = "; ".join(f"{one.name}: {one.servers} ({one.route})" for one in DIALECTS.values())
    add("--route", help="the path to ask; default: the URL's own, else the dialect's")
    add("--dialect", choices=tuple(DIALECTS), help=f"default: as the route has it. {spoken}")
    add("--model", help="sent as `model`; default: none is")
    add("--api-key-file", type=Path, metavar="F", help="its first key is sent as a bearer token")
    add(
        "--timeout",
        type=amount,
        default=TIMEOUT_S,
        metavar="S",
        help="seconds after which an answer is given up; default: %(default)g",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    words = "of texts and arrivals; default: a new one, so that no cache knows the texts"
    parser.add_argument("--seed", help=words)


def target(name: str, url: str, options: argparse.Namespace, socket: Path | None = None) -> Target:
    """What `add_target`'s options come to. Raises UsageError, ConfigError."""
    base, path = _split(url)
    route = options.route or path
    if route and not route.startswith("/"):
        raise UsageError(f"--route {route}: a route begins with /")
    if socket and not socket.is_socket():
        raise UsageError(f"--socket {socket} is no Unix socket: is its server running?")
    dialect = DIALECTS[options.dialect] if options.dialect else of_route(route)
    headers = {}
    if options.api_key_file:
        headers["authorization"] = f"Bearer {_key(options.api_key_file)}"
    return Target(
        name,
        base,
        str(socket) if socket else None,
        dialect,
        route or dialect.route,
        options.model,
        headers,
    )


def _split(url: str) -> tuple[str, str]:
    """The base of a URL, and its path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


def _key(file: Path) -> str:
    try:
        keys = read_plain(file)
    except ConfigError as error:
        raise UsageError(f"--api-key-file: {error}") from error
    if not keys or not keys[0].isascii():
        raise UsageError(f"--api-key-file {file} has no key that can be sent: digests only?")
    return keys[0]
