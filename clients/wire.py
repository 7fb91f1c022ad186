"""What every client here is and returns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """One passage with its place in the request (from 0), its score (0..1) and its text."""

    index: int
    score: float
    text: str


class Reranker(ABC):
    """A connection to one server. Use as a context manager, or close it."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`base_url` is `http://HOST:PORT`; `model` None asks for the server's default;
        `timeout_s` bounds each request."""
        self.model = model
        self.connect(base_url.rstrip("/"), api_key, timeout_s)

    @abstractmethod
    def connect(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        """Makes the underlying client."""

    @abstractmethod
    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ranked(passages: Sequence[str], scores: Sequence[float]) -> list[Ranked]:
    """Passages by falling score, ties by rising index. `scores` has one value for each passage."""
    items = [
        Ranked(index, score, text)
        for index, (text, score) in enumerate(zip(passages, scores, strict=True))
    ]
    return sorted(items, key=lambda item: (-item.score, item.index))
