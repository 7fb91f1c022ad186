"""Try a server: `python -m clients [--via requests|openai|cohere|all] QUERY PASSAGE…`.

Without words of your own it ranks an example. With `all`, the three clients must agree to the last
digit. Exit status: 0 ranked, 1 the server could not be asked, 2 wrong arguments, 3 no agreement.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import cohere.core
import httpx
import openai
import requests

from clients.cohere_client import CohereReranker
from clients.examples import FOUR_PASSAGES, QUERY
from clients.openai_client import OpenAIReranker
from clients.score_client import ScoreClient
from clients.wire import Ranked, Reranker

CLIENTS: Mapping[str, Callable[..., Reranker]] = {
    "requests": ScoreClient,
    "openai": OpenAIReranker,
    "cohere": CohereReranker,
}
FAILURES = (
    requests.RequestException,
    openai.APIError,
    cohere.core.ApiError,
    httpx.HTTPError,
)

UNREACHED = (requests.ConnectionError, openai.APIConnectionError, httpx.ConnectError)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser(os.environ).parse_args(arguments)
    passages = options.passages or FOUR_PASSAGES
    names = list(CLIENTS) if options.via == "all" else [options.via]
    answers: dict[str, list[Ranked]] = {}
    for name in names:
        make = CLIENTS[name]
        try:
            with make(options.url, model=options.model, api_key=options.api_key) as client:
                answers[name] = client.rerank(options.query, passages)
        except FAILURES as error:
            hint = ": start it with `make serve`, or name it with --url"
            unreached = isinstance(error, UNREACHED)
            print(f"error: {name}: {options.url}: {error}{hint * unreached}", file=sys.stderr)
            return 1
    show(options.query, answers)
    return 0 if agree(answers) else 3


def show(query: str, answers: Mapping[str, Sequence[Ranked]]) -> None:
    """Prints a ranking once, with the clients that gave it, or each one if they differ."""
    print(f"query: {query}")
    same = agree(answers)
    for name, ranking in answers.items():
        print(f"\n{', '.join(answers)} agree to the last digit:" if same else f"\n{name}:")
        for item in ranking:
            print(f"  {item.score:<24} {item.text}")
        if same:
            break


def agree(answers: Mapping[str, Sequence[Ranked]]) -> bool:
    """Whether every client gave the same passages the same scores in the same order."""
    first, *others = answers.values()
    return all(list(other) == list(first) for other in others)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clients", description=__doc__)
    parser.add_argument("query", nargs="?", default=QUERY)
    parser.add_argument("passages", nargs="*", metavar="PASSAGE")
    parser.add_argument("--via", choices=(*CLIENTS, "all"), default="all")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--model", help="default: the server's")
    parser.add_argument(
        "--api-key", default=environment.get("RERANK_API_KEY"), help="default: $RERANK_API_KEY"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
