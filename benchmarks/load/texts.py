"""Pure: what requests ask, how many passages of how many words, new each time or by popularity."""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WORDS = (
    "deep learning network layer gradient model query passage rank score search engine index token"
    " weather river bread oven mountain city train music paper light colour number table window"
).split()
QUERY_WORDS = 8
LARGEST = 1_000_000
FORMS = "N, A-B, N:WEIGHT,N:WEIGHT or lognormal:MEDIAN:SIGMA"
_WIDEST = 4  # standard deviations that a lognormal size may lie above its median
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"


@dataclass(frozen=True, slots=True)
class Sizes:
    """A distribution of whole numbers from 1 to `largest`; `text` is how it was written."""

    text: str
    largest: int
    draw: Callable[[random.Random], int] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks, in any dialect."""

    query: str
    passages: Sequence[str]


def sizes(text: str) -> Sizes:
    """The distribution that `text` stands for. Raises ValueError, which says what may be written.

    `20`; `20-200`, each as likely; `4:0.9,1000:0.1`, by weight; `lognormal:60:0.6`, by its median
    and the standard deviation of its logarithm.
    """
    if re.fullmatch(r"\d+", text):
        return _by_weight(text, [(int(text), 1.0)])
    if found := re.fullmatch(r"(\d+)-(\d+)", text):
        low, high = _checked(int(found[1]), text), _checked(int(found[2]), text)
        if low > high:
            raise ValueError(f"{text}: the first number is the smaller one")
        return Sizes(text, high, lambda source: source.randint(low, high))
    if found := re.fullmatch(rf"lognormal:({_NUMBER}):({_NUMBER})", text):
        return _lognormal(text, float(found[1]), float(found[2]))
    parts = [re.fullmatch(rf"(\d+):({_NUMBER})", part) for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"{text!r} is none of {FORMS}")
    return _by_weight(text, [(int(part[1]), float(part[2])) for part in parts if part])


def _by_weight(text: str, weighed: Sequence[tuple[int, float]]) -> Sizes:
    values = [_checked(value, text) for value, _ in weighed]
    weights = [weight for _, weight in weighed]
    if not sum(weights):
        raise ValueError(f"{text}: one weight at least has to be above 0")
    if len(values) == 1:
        return Sizes(text, values[0], lambda _: values[0])
    return Sizes(text, max(values), lambda source: source.choices(values, weights)[0])


def _lognormal(text: str, median: float, sigma: float) -> Sizes:
    if not median or sigma > 3:
        raise ValueError(f"{text}: the median is above 0, and sigma at most 3")
    largest = _checked(math.ceil(median * math.exp(_WIDEST * sigma)), text)
    log = math.log(median)
    return Sizes(
        text,
        largest,
        lambda source: min(largest, max(1, round(source.lognormvariate(log, sigma)))),
    )


def _checked(value: int, text: str) -> int:
    if not 1 <= value <= LARGEST:
        raise ValueError(f"{text}: 1 to {LARGEST} is possible")
    return value


def unique(passages: Sizes, words: Sizes, seed: str) -> Iterator[Question]:
    """Questions without end whose texts nobody has sent before, so that no cache can help.

    The same `seed` gives the same sizes and words again, and the same texts.
    """
    source = random.Random(seed)
    while True:
        size = passages.draw(source)
        texts = [_text(source, words.draw(source)) for _ in range(size)]
        yield Question(_text(source, QUERY_WORDS), texts)


def _text(source: random.Random, words: int) -> str:
    """So many words. The last is a number that no other text has, as far as chance goes."""
    return " ".join((*source.choices(WORDS, k=words - 1), str(source.getrandbits(32))))


def popular(
    passages: Sizes, words: Sizes, *, distinct: int, exponent: float, seed: str
) -> Iterator[Question]:
    """Questions without end about `distinct` pairs, the r-th as popular as 1/r^exponent.

    The pairs are dealt out to queries in turn, so that each query has popular passages and others,
    and twice as many as the largest request asks for. A request draws its query by the popularity
    of all its pairs, then passages of it by theirs, none twice. Raises ValueError.
    """
    if distinct < passages.largest:
        raise ValueError(
            f"{distinct} pairs are too few for requests of {passages.largest} passages: none is in"
            " a request twice"
        )
    queries = max(1, distinct // (2 * passages.largest))
    weights = np.arange(1, distinct + 1, dtype=np.float64) ** -exponent
    return _popular(passages, words, [weights[query::queries] for query in range(queries)], seed)


def _popular(
    passages: Sizes, words: Sizes, weights: Sequence[Floats], seed: str
) -> Iterator[Question]:
    """`weights` of each query's passages."""
    source, chance = random.Random(seed), np.random.default_rng(list(seed.encode()))
    queries = [_text(source, QUERY_WORDS) for _ in weights]
    texts = [[_text(source, words.draw(source)) for _ in each] for each in weights]
    totals = [float(each.sum()) for each in weights]
    while True:
        query = source.choices(range(len(queries)), totals)[0]
        shares = weights[query] / totals[query]
        size = passages.draw(source)
        drawn = chance.choice(len(shares), size, replace=False, p=shares)
        yield Question(queries[query], [texts[query][place] for place in drawn.tolist()])


def doubled(questions: Iterator[Question]) -> Iterator[Question]:
    """The same questions, with each of their passages twice."""
    return (Question(one.query, [*one.passages, *one.passages]) for one in questions)
