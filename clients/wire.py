"""What every client here returns."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ranked:
    """One passage with its place in the request (from 0), its score (0..1) and its text."""

    index: int
    score: float
    text: str


def ranked(passages: Sequence[str], scores: Sequence[float]) -> list[Ranked]:
    """Passages by falling score, ties by rising index. `scores` has one value for each passage."""
    items = [
        Ranked(index, score, text)
        for index, (text, score) in enumerate(zip(passages, scores, strict=True))
    ]
    return sorted(items, key=lambda item: (-item.score, item.index))
