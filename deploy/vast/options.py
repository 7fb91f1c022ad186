"""What may stand behind `python -m deploy vast`."""

import argparse
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.vast.plan import DEFAULT_PORT
from serve.shelf import DEFAULT_MODEL

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
KEY_VARIABLE = "RERANK_API_KEY"


def parser_for(
    verbs: Mapping[str, Callable[..., None]], description: str | None
) -> argparse.ArgumentParser:
    """The parser of `python -m deploy`, whose verbs of `vast` are these functions."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description=description)
    places = parser.add_subparsers(required=True, metavar="vast")
    vast = places.add_parser("vast", help="rent from Vast.ai", description=description)
    commands = vast.add_subparsers(required=True, metavar="COMMAND")
    for name, function in verbs.items():
        verb = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        verb.set_defaults(command=function, verb=name)
        if name == "up":
            _add_up(verb)
        elif name != "list":
            words = "an instance's id, or its label or the beginning of it (default: the only one)"
            verb.add_argument("name", metavar="INSTANCE", nargs="?", help=words)
        if name == "logs":
            verb.add_argument("--tail", type=_count, default=400, help="lines (default: 400)")
    return parser


def _add_up(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL, help="as of make serve")
    add("--dry-run", action="store_true", help="print the whole plan; nothing is rented")
    add("--print-cli", action="store_true", help="print the plain recipe, with what it lacks")
    add("--yes", action="store_true", help="rent without a question")
    add("--max-price", type=_dollars, metavar="X", help="dollars an hour; up to it without asking")
    add("--ttl", type=seconds, metavar="4h", help="the instance destroys itself after this time")
    add("--tunnel", action="store_true", help="open no port: reach it through SSH")
    add("--local-port", type=_count, metavar="P", help="of the tunnel, here (default: a free one)")
    add("--ssh-key", type=Path, metavar="F", help="private key for it (default: as ssh finds one)")
    add("--port", type=_count, default=DEFAULT_PORT, help="inside the instance (%(default)s)")
    words = f"its first key is the endpoint's; or ${KEY_VARIABLE} (default: a new key)"
    add("--api-key-file", type=Path, metavar="F", help=words)
    add("--hf-token", action="store_true", help="send $HF_TOKEN, for a gated model")
    words = (
        "from renting to ranking, then the next offer is taken (20m, and 40s for each GB of MODEL)"
    )
    add("--timeout", type=seconds, metavar="20m", help=words)
    add("--tries", type=_count, default=3, metavar="N", help="machines that may fail (%(default)s)")
    words = "dollars that machines that fail may cost together (%(default)s)"
    add("--max-waste", type=_dollars, default=1.0, metavar="X", help=words)


def seconds(text: str) -> float:
    """`4h`, `90m`, `1h30m`, `2d`, `45s` in seconds. Raises argparse.ArgumentTypeError."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not 0 < total < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 4h, 90m, 1h30m or 2d")
    return total


def _dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no price in dollars: write 0.35")
    return value


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 to 65535")
