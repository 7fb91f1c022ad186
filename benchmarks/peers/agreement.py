"""Pure: whether two lists of scores say the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import kendalltau

from benchmarks.peers.subjects import Kind

# How far a score may be from float32's, by the type that it was computed in; int8 has no such
# promise, so that its distance is shown and nothing more.
TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 8e-2, "int8": math.inf}


@dataclass(frozen=True)
class Agreement:
    """The largest distance of one score, and Kendall's tau of the two orders (1 is the same)."""

    distance: float
    tau: float

    def verdict(self, dtype: str) -> str:
        if math.isnan(self.distance):
            return "unknown"
        if dtype == "int8":
            return "not judged"
        return "yes" if self.distance <= TOLERANCES[dtype] else "NO"


def scores(raw: Sequence[float], kind: Kind) -> list[float]:
    """What is compared: probabilities of logits, cosines as they are."""
    if kind == "cosine":
        return list(raw)
    return [0.5 * (1 + math.tanh(value / 2)) for value in raw]


def agreement(raw: Sequence[float], wanted: Sequence[float], kind: Kind) -> Agreement:
    """How `raw` values agree with `wanted` ones of the same pairs. A list of another length, or
    with what is no number, agrees with nothing."""
    if len(raw) != len(wanted) or not all(map(math.isfinite, raw)):
        return Agreement(math.inf, math.nan)
    ours, theirs = scores(raw, kind), scores(wanted, kind)
    distance = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return Agreement(distance, float(kendalltau(ours, theirs).statistic))


def worst(found: Sequence[Agreement]) -> Agreement:
    """Of several questions: the largest distance, the least tau."""
    return Agreement(max(one.distance for one in found), min(one.tau for one in found))
