"""The clients' command line: `ask` tries a server, `rerank` ranks whole files.

    python -m clients ask "which is a fruit?" "an apple" "a hammer"
    python -m clients rerank queries.jsonl --passages passages.jsonl --out ranked.jsonl

`python -m clients ask --help` and `python -m clients rerank --help` say the rest.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients import try_out
from clients.address import add_fingerprint, address, check_fingerprint
from clients.bulk import command as bulk
from clients.try_out import CLIENTS, agree

__all__ = ["CLIENTS", "agree", "main"]

URL = "http://127.0.0.1:8000"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: of `ask` and `rerank`, 2 for wrong arguments, or 130 for Ctrl-C."""
    if sys.stderr is None:  # closed by whoever runs us: what is said there must not go to stdout
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # to the end
    try:
        parser = _parser(os.environ)
        options = parser.parse_args(arguments)
        check_fingerprint(parser, options)
        status: int = options.run(options)
    except KeyboardInterrupt:
        status = 130
    return status


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module, words in (
        ("ask", try_out, "rank a few passages, through all three clients"),
        ("rerank", bulk, "rank files of queries and passages, resumably"),
    ):
        command = commands.add_parser(
            name,
            help=words,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        _add_server(command, environment)
        command.set_defaults(run=module.run)
    return parser


def _add_server(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    server = parser.add_argument_group("the server")
    add = server.add_argument
    add("--url", type=address, default=URL, help="default: %(default)s")
    add("--model", help="default: the server's")
    add("--api-key", default=environment.get("RERANK_API_KEY"), help="default: $RERANK_API_KEY")
    add_fingerprint(server)


if __name__ == "__main__":
    sys.exit(main())
