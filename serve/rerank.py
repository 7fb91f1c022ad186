"""The pure core: one canonical request, what an engine answers, one canonical result.

Scores. An engine gives one raw value for each pair. What that value is belongs to the model:

- `logit`: s = 1 / (1 + exp(-x)), the logistic function, taken once, in float64;
- `cosine`: s = (1 + x) / 2, which maps -1..1 to 0..1.

Both are strictly increasing, so the order is the raw values' own: ranking reads those, and two
pairs whose scores round to the same float still come in the right order. Equal raw values keep the
order of the request. Scores never depend on the other passages of a request (no min-max).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from serve.errors import EngineFault

COSINE_ROUNDING = 0.01  # how far beyond -1..1 half-precision arithmetic takes a cosine


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """What any dialect's body comes to.

    `queries` holds one query for all `passages`, or one for each. `top_n` None is "all of them";
    `raw` asks for the engine's own values instead of 0..1; `options` are vLLM's request fields, as
    given; `echo` says whether the answer carries the passages' text; `fields` is what the body
    called the two sides, for errors.
    """

    queries: Sequence[str]
    passages: Sequence[str]
    model: str | None = None
    use_llm: bool = False
    top_n: int | None = None
    raw: bool = False
    echo: bool = True
    request_id: str | None = None
    fields: tuple[str, str] = ("query", "passages")
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawScores:
    """What an engine answered: one raw value for each pair, in order, and the tokens it read."""

    values: Sequence[float]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class RerankResult:
    """What any dialect renders.

    `scores` has one value for each passage, in the request's order; `ranking` holds passage
    indices, the best first, cut to `top_n`.
    """

    id: str
    model: str
    created: int
    scores: Sequence[float]
    ranking: Sequence[int]
    prompt_tokens: int


def sigmoid(logit: float) -> float:
    """The logistic function in float64, without overflow at either end."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1.0 + power)


def cosine_to_unit(cosine: float) -> float:
    """(1 + cosine) / 2. Raises EngineFault for what is no cosine: the model's `score:` is wrong."""
    if abs(cosine) > 1 + COSINE_ROUNDING:
        raise EngineFault(f"The engine answered {cosine}, which is no cosine (-1..1).")
    return min(1.0, max(0.0, (1.0 + cosine) / 2.0))


SCORE_FUNCTIONS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"logit": sigmoid, "cosine": cosine_to_unit}
)


def check_raw(values: Sequence[object], pairs: int) -> list[float]:
    """The engine's values as floats.

    Raises EngineFault for a wrong count, a value that is no number, NaN or infinity: what is not a
    score never becomes one.
    """
    if len(values) != pairs:
        raise EngineFault(f"The engine answered {len(values)} scores for {pairs} pairs.")
    floats = []
    for index, value in enumerate(values):
        if (
            not isinstance(value, float | int)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise EngineFault(f"The engine answered {value!r} for pair {index}: no score.")
        floats.append(float(value))
    return floats


def rank(values: Sequence[float], top_n: int | None) -> list[int]:
    """Indices by falling value, ties by rising index, at most `top_n` of them."""
    # A reversed sort of Python keeps equal elements in their order, so ties need no second key.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_n]


def build_result(
    request: RerankRequest, raw: RawScores, *, score: str, model: str, id: str, created: int
) -> RerankResult:
    """The canonical result of `request`, from the engine's raw values of the kind `score`."""
    function = SCORE_FUNCTIONS[score]
    return RerankResult(
        id=id,
        model=model,
        created=created,
        scores=raw.values if request.raw else [function(value) for value in raw.values],
        ranking=rank(raw.values, request.top_n),
        prompt_tokens=raw.prompt_tokens,
    )
