"""Pure: what came of requests, and the rates and percentiles of it."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

OK = "ok"
# Outcomes beside that, and beside statuses with their code ("429 overloaded"):
WRONG = "200 with a wrong answer"
TIMEOUT = "no answer in time"
LOST = "connection failed"
UNSENT = "not sent: too many in flight"

SHARES: Mapping[str, float] = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99.9": 0.999,
    "max": 1.0,
}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of them stayed within: one of them (the nearest rank), so that
    none is made up. NaN where there is none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Shot:
    """What came of one request. Times are seconds since the run began.

    `due` is when it should have been sent: in a closed loop, when it was. `cached` is the number of
    passages that the server says it had the scores of; `told` begins a bad answer.
    """

    due: float
    sent: float
    end: float
    passages: int
    outcome: str = OK
    retry_after: str | None = None
    cached: int = 0
    told: str = ""

    @property
    def latency_s(self) -> float:
        """From when it should have been sent, so that a wait of the sender counts too."""
        return self.end - self.due


@dataclass(frozen=True)
class Run:
    """The requests of one run, and the seconds that it took until the last was answered."""

    shots: Sequence[Shot]
    seconds: float

    @cached_property
    def good(self) -> Sequence[Shot]:
        """Those that were answered, and rightly: all others count as nothing."""
        return [shot for shot in self.shots if shot.outcome == OK]

    @cached_property
    def ordered_ms(self) -> Sequence[float]:
        """The latencies of right answers, the shortest first."""
        return sorted(1000 * shot.latency_s for shot in self.good)

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.good) / self.seconds

    @property
    def pairs(self) -> int:
        return sum(shot.passages for shot in self.good)

    @property
    def pair_rate(self) -> float:
        """Pairs rightly scored a second."""
        return self.pairs / self.seconds

    @property
    def failures(self) -> Mapping[str, int]:
        """What came instead of right answers, the most frequent first."""
        return dict(Counter(s.outcome for s in self.shots if s.outcome != OK).most_common())

    def quantile(self, share: float) -> float:
        """The latency, in ms, that `share` (0..1) of the right answers stayed within."""
        return percentile(self.ordered_ms, share)

    def of(self, wanted: Callable[[Shot], bool]) -> "Run":
        """The run of some of the requests alone, over the same seconds."""
        return Run([shot for shot in self.shots if wanted(shot)], self.seconds)


def merged(runs: Sequence[Run]) -> Run:
    """Several runs as one."""
    return Run([shot for run in runs for shot in run.shots], sum(run.seconds for run in runs))


def quartiles(a: Sequence[Run], b: Sequence[Run]) -> tuple[float, float, float]:
    """Of a's rate over b's, round by round: the lower quartile, the median and the upper one."""
    ratios = [x.rate / y.rate if y.rate else math.nan for x, y in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios * (2 if len(ratios) == 1 else 1), n=4)
    return low, middle, high


def classes(run: Run, few: int = 6) -> Mapping[str, Run]:
    """The run by the passages of a request: each number by itself where they are few, else by
    powers of ten. Empty where all requests are of one class."""
    numbers = sorted({shot.passages for shot in run.shots})
    if len(numbers) <= few:
        spans = [(number, number) for number in numbers]
    else:
        powers = sorted({len(str(number)) for number in numbers})
        spans = [(10 ** (power - 1), 10**power - 1) for power in powers]
    found = {
        str(low) if low == high else f"{low}-{high}": run.of(_between(low, high))
        for low, high in spans
    }
    return found if len(found) > 1 else {}


def _between(low: int, high: int) -> Callable[[Shot], bool]:
    return lambda shot: low <= shot.passages <= high
