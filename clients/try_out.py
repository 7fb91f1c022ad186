"""Try a server: `python -m clients ask [--via requests|openai|cohere|all] QUERY PASSAGE…`.

Without words of your own it ranks an example. With `all`, the three clients must agree to the last
digit. Exit status: 0 ranked, 1 the server could not be asked, 2 wrong arguments, 3 no agreement.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clients
from clients.address import told
from clients.errors import RerankError
from clients.examples import FOUR_PASSAGES, QUERY
from clients.reranker import Reranker
from clients.retry import NEVER
from clients.wire import Ranked


def _requests(*arguments: Any, **options: Any) -> Reranker:
    return clients.RerankClient(*arguments, **options)


def _openai(*arguments: Any, **options: Any) -> Reranker:
    return clients.OpenAIReranker(*arguments, **options)


def _cohere(*arguments: Any, **options: Any) -> Reranker:
    return clients.CohereReranker(*arguments, **options)


# By functions, since an SDK's import takes a second and `rerank` needs none.
CLIENTS: Mapping[str, Callable[..., Reranker]] = {
    "requests": _requests,
    "openai": _openai,
    "cohere": _cohere,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command alone."""
    parser.add_argument("query", nargs="?", default=QUERY)
    parser.add_argument("passages", nargs="*", metavar="PASSAGE")
    parser.add_argument("--via", choices=(*CLIENTS, "all"), default="all", help="default: all")


def run(options: argparse.Namespace) -> int:
    """Ranks, prints, and returns the exit status."""
    passages = options.passages or FOUR_PASSAGES
    names = list(CLIENTS) if options.via == "all" else [options.via]
    answers: dict[str, list[Ranked]] = {}
    for name in names:
        try:
            with CLIENTS[name](
                options.url,
                model=options.model,
                api_key=options.api_key,
                fingerprint=options.fingerprint,
                retry=NEVER,
            ) as client:
                answers[name] = client.rerank(options.query, passages)
        except RerankError as error:
            print(f"error: {name}: {told(error, options.url)}", file=sys.stderr)
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
