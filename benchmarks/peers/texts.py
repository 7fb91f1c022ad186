"""Pure: texts of an exact number of tokens that nobody has sent before."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WORDS = (
    "deep learning network layer gradient model query passage rank score search engine index token"
    " weather river bread oven mountain city train music paper light colour number table window"
    " stone garden winter summer horse ship bridge market letter school doctor ocean forest metal"
).split()
QUERY_TOKENS = 16
TOPIC_WORDS = 6  # of which a passage is made: few, so that passages differ


@dataclass(frozen=True)
class Lengths:
    """Tokens around the texts: `pair` of a query and a passage that are read together, or None
    where each text is read `alone`, with so many."""

    pair: int | None
    alone: int


def whole_words(count: Callable[[str], int], words: Sequence[str] = WORDS) -> list[str]:
    """Those of `words` that are one token each, by `count`, which counts a text's tokens."""
    return [word for word in words if count(f"a {word} {word}") - count(f"a {word}") == 1]


class Texts:
    """Queries with passages, the same ones for the same seed."""

    def __init__(self, words: Sequence[str], lengths: Lengths) -> None:
        self._words = words
        self._lengths = lengths

    def make(self, seed: int, passages: int, tokens: int) -> tuple[str, list[str]]:
        """A query and passages: `tokens` each pair, or each passage, specials included."""
        source = random.Random(seed)
        query = " ".join(source.choices(self._words, k=QUERY_TOKENS))
        around = self._lengths.pair
        length = tokens - (self._lengths.alone if around is None else QUERY_TOKENS + around)
        return query, [self._passage(source, length) for _ in range(passages)]

    def _passage(self, source: random.Random, length: int) -> str:
        topic = source.sample(self._words, k=TOPIC_WORDS)
        return " ".join(source.choices(topic, k=length))
