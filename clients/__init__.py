"""Clients of a rerank server, through `requests`, the OpenAI SDK and Cohere's SDK.

    from clients import RerankClient

    with RerankClient("http://127.0.0.1:8000") as client:
        for item in client.rerank("What is Deep Learning?", ["I like pizza", "Neural networks"]):
            print(item.score, item.text)

They never import the server: whoever uses them needs only this package and the SDK of choice, which
is imported when its client is first named.
"""

from typing import TYPE_CHECKING

from clients.errors import (
    BadAnswer,
    BadRequest,
    NotFound,
    Overloaded,
    Refused,
    RerankError,
    ServerFault,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from clients.retry import Retry
from clients.wire import Chunk, Ranked

if TYPE_CHECKING:
    from clients.cohere_client import CohereReranker
    from clients.openai_client import AsyncOpenAIReranker, OpenAIReranker
    from clients.requests_client import RerankClient

__all__ = [
    "AsyncOpenAIReranker",
    "BadAnswer",
    "BadRequest",
    "Chunk",
    "CohereReranker",
    "NotFound",
    "OpenAIReranker",
    "Overloaded",
    "Ranked",
    "Refused",
    "RerankClient",
    "RerankError",
    "Retry",
    "ServerFault",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]


def __getattr__(name: str) -> object:
    """The clients themselves: each needs an SDK that another's user may not have."""
    if name == "RerankClient":
        from clients.requests_client import RerankClient

        return RerankClient
    if name in ("AsyncOpenAIReranker", "OpenAIReranker"):
        from clients import openai_client

        return getattr(openai_client, name)
    if name == "CohereReranker":
        from clients.cohere_client import CohereReranker

        return CohereReranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
