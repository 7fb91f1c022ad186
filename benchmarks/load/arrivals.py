"""Pure: when the requests of an open loop are due, in seconds since its begin."""

import math
import random
from collections.abc import Callable, Mapping, Sequence


def even(rate: float, seconds: float, _: str = "") -> list[float]:
    """`rate` times a second, always as far apart."""
    return [number / rate for number in range(math.ceil(rate * seconds))]


def poisson(rate: float, seconds: float, seed: str) -> list[float]:
    """`rate` times a second in the mean, as of clients who know nothing of each other."""
    source, moments = random.Random(seed), list[float]()
    at = source.expovariate(rate)
    while at < seconds:
        moments.append(at)
        at += source.expovariate(rate)
    return moments


ARRIVALS: Mapping[str, Callable[[float, float, str], Sequence[float]]] = {
    "poisson": poisson,
    "even": even,
}
