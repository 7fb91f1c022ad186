"""Pure: what a load test sends and when, whether an answer is right, what all of it comes to."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

# The scores of a query's passages, as the simple route should give them.
Expected = Callable[[str, Sequence[str]], Sequence[float]]

# Outcomes beside the statuses "200", "429", …
LOST = "lost"  # the connection was refused, or closed before the answer was whole
GAVE_UP = "gave up"  # the client hung up after `Ask.patience_s`
UNSENT = "unsent"  # all connections were taken

FILLER = "of rivers and bread in a city with music on paper under light at a window by the sea"


@dataclass(frozen=True)
class Ask:
    """One request."""

    query: str
    passages: Sequence[str]
    headers: Mapping[str, str]
    patience_s: float  # after which its client hangs up


@dataclass(frozen=True)
class Record:
    """What came of a request. Times are seconds since the run began."""

    begin: float
    end: float
    pairs: int
    outcome: str  # a status, or one of the words above
    is_wrong: bool = False  # false scores, or an error that is not told as ours are
    retry_after: str | None = None
    told: str = ""  # what a body that is no right answer begins with


def mix(
    sizes: Mapping[int, float],
    *,
    words: int = 8,
    timeout_s: float | None = None,
    patience_s: float = 120.0,
    seed: int = 0,
) -> Iterator[Ask]:
    """Requests without end: sizes (passages → how often, as a weight) by chance, no text twice.

    `words` is the length of a passage, `timeout_s` what the request itself says.
    """
    source = random.Random(seed)
    headers = {} if timeout_s is None else {"x-rerank-timeout": f"{timeout_s:g}"}
    filler = (FILLER.split() * (words // 8 + 1))[: max(0, words - 2)]
    text = " ".join(filler)
    number = 0
    while True:
        number += 1
        count = source.choices(list(sizes), weights=list(sizes.values()))[0]
        passages = [f"{seed}-{number} {index} {text}" for index in range(count)]
        yield Ask(f"what is {seed}-{number}?", passages, headers, patience_s)


def steady(rate: float, seconds: float) -> list[float]:
    """When to send: `rate` times a second, evenly."""
    return [index / rate for index in range(math.ceil(rate * seconds))]


def bursty(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """When to send: as clients do who know nothing of each other (a Poisson process)."""
    source, moments, at = random.Random(seed), [], 0.0
    while (at := at + source.expovariate(rate)) < seconds:
        moments.append(at)
    return moments


def is_wrong(ask: Ask, status: int, body: bytes, expected: Expected, within: float) -> bool:
    """Whether an answer is neither the right scores, to `within`, nor an error as ours are told."""
    try:
        told = orjson.loads(body)
    except ValueError:
        return True
    if status != 200:
        return not (isinstance(told, dict) and isinstance(told.get("message"), str))
    right = expected(ask.query, ask.passages)
    return not (
        isinstance(told, list)
        and len(told) == len(right)
        and all(
            isinstance(score, float) and abs(score - wanted) <= within
            for score, wanted in zip(told, right, strict=True)
        )
    )


@dataclass(frozen=True)
class Summary:
    """What a run came to. `goodput` is pairs a second, rightly scored."""

    seconds: float
    outcomes: Mapping[str, int]
    wrong: Sequence[Record]
    goodput: float
    latencies: Sequence[float]  # of what was answered with 200, in seconds, ordered
    slowest_s: float  # of all that was sent, whatever came of it

    def quantile(self, share: float) -> float:
        """The latency, in seconds, that `share` (0..1) of the good answers stayed within."""
        if not self.latencies:
            return math.nan
        return self.latencies[max(0, math.ceil(share * len(self.latencies)) - 1)]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {outcome}" for outcome, count in self.outcomes.items())
        latencies = ", ".join(f"p{p:g} {self.quantile(p / 100):.3f}" for p in (50, 95, 99, 100))
        return (
            f"{self.seconds:.1f} s: {counts}; {len(self.wrong)} wrong; {self.goodput:.0f} pairs/s;"
            f" {latencies} s; slowest of all {self.slowest_s:.3f} s"
        )


def _is_good(record: Record) -> bool:
    return record.outcome == "200" and not record.is_wrong


def summarise(records: Sequence[Record]) -> Summary:
    """A run, or a part of one, in figures. Its seconds are from the first begin to the last end."""
    begin = min((record.begin for record in records), default=0.0)
    seconds = max((record.end for record in records), default=0.0) - begin
    good = sum(record.pairs for record in records if _is_good(record))
    return Summary(
        seconds=seconds,
        outcomes=dict(sorted(Counter(record.outcome for record in records).items())),
        wrong=[record for record in records if record.is_wrong],
        goodput=good / seconds if seconds else 0.0,
        latencies=sorted(r.end - r.begin for r in records if r.outcome == "200"),
        slowest_s=max((r.end - r.begin for r in records if r.outcome != UNSENT), default=0.0),
    )


def timeline(records: Sequence[Record], step_s: float = 1.0) -> list[int]:
    """The pairs that were rightly scored in each `step_s` seconds of a run, by when they came."""
    steps = Counter[int]()
    for record in records:
        steps[int(record.end / step_s)] += record.pairs if _is_good(record) else 0
    return [steps[index] for index in range(max(steps, default=-1) + 1)]
