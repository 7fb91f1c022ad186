"""A server's address: what is one, and what command lines say when it does not answer."""

import argparse
import re

from clients import pin
from clients.errors import RerankError, Unreachable

RULE = "must begin with http:// or https://, and name a host"
_ADDRESS = re.compile("https?://[^/]", re.IGNORECASE)


def check_address(url: str) -> None:
    """Raises ValueError."""
    if not _ADDRESS.match(url):
        raise ValueError(f"base_url {RULE}; not {url!r}")


def address(text: str) -> str:
    """The type of --url. Raises ArgumentTypeError."""
    if not _ADDRESS.match(text):
        raise argparse.ArgumentTypeError(f"it {RULE}; not {text!r}")
    return text


def fingerprint(text: str) -> str:
    """The type of --fingerprint. Raises ArgumentTypeError."""
    try:
        return pin.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_fingerprint(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds --fingerprint, which `check_fingerprint` looks at once --url is known."""
    parser.add_argument(
        "--fingerprint",
        type=fingerprint,
        metavar="SHA256",
        help="of the one certificate to trust, as `openssl x509 -fingerprint -sha256` prints it",
    )


def check_fingerprint(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the command (exit 2) where --fingerprint does not go with --url."""
    try:
        pin.check(options.url, options.fingerprint)
    except ValueError as error:
        parser.error(f"argument --fingerprint: {error}")


def told(error: RerankError, url: str) -> str:
    """An error's words with the address once, and what to do where that may help."""
    words = str(error)
    if url.rstrip("/").removesuffix("/v1") not in words:
        words = f"{url}: {words}"
    if isinstance(error, Unreachable) and error.again:
        return f"{words}: start it with `make serve`, or name it with --url"
    if error.again and error.retry_after:
        return f"{words} (it asks to come again after {error.retry_after:.0f} s)"
    return words
