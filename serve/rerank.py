"""The pure core: one canonical request, what an engine answers, one canonical result.

They are named tuples, which are as fixed as frozen dataclasses and made in a third of the time.

Scores. An engine gives one raw value x for each pair; `Score` says what it is and what becomes of
it:

- `logit`: s = 1 / (1 + exp(-x)), the logistic function, taken once, in float64;
- `cosine`: s = (1 + x) / 2, which maps -1..1 to 0..1;
- either with a temperature T or a bias b: s = 1 / (1 + exp(-(x / T + b))), Platt's scaling with
  parameters that were fitted to labelled pairs (Platt 1999; `python -m benchmarks.calibrate`).

All are strictly increasing, so the order is the raw values' own: ranking reads those, and two pairs
whose scores round to the same float still come in the right order. Equal raw values keep the order
of the request. Scores never depend on the other passages of a request (no min-max).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from serve.errors import EngineFault

_NONE: Mapping[Any, Any] = MappingProxyType({})
COSINE_ROUNDING = 0.01  # how far beyond -1..1 half-precision arithmetic takes a cosine


@dataclass(frozen=True)
class Score:
    """What a model's raw value is, and the calibration that turns it into a probability, if any."""

    SHORTHAND: ClassVar[str] = "of"  # `score: logit` in a YAML is `score: {of: logit}`

    of: Literal["logit", "cosine"] = "logit"
    temperature: float | None = field(default=None, metadata={"min": 1e-6, "max": 1e6})
    bias: float | None = field(default=None, metadata={"min": -1e6, "max": 1e6})

    def units(self, values: Sequence[float]) -> list[float]:
        """Scores, 0..1, of raw values. Raises EngineFault for a cosine that is none."""
        if self.of == "cosine":
            cosines = cosines_to_units(values)  # which raises
            if self.temperature is None and self.bias is None:
                return cosines
        if self.temperature is not None or self.bias is not None:
            temperature, bias = self.temperature or 1.0, self.bias or 0.0
            values = [value / temperature + bias for value in values]
        return sigmoids(values)


class RerankRequest(NamedTuple):
    """What any dialect's body comes to.

    `queries` holds one query for all `passages`, or one for each. `top_n` None is "all of them";
    `raw` asks for the engine's own values instead of 0..1; `options` are vLLM's request fields, as
    given; `is_ranked` says whether the answer is a ranking (the best first) or plain scores;
    `fields` is what the body called the two sides, for errors.

    `echo` says whether the answer carries the passages; `originals` are those as the body had them,
    where they were no plain strings. An over-long passage is scored by at most `max_chunks` parts
    of it; what is left over is cut, unless `may_cut` is false: then the request is refused.
    """

    queries: Sequence[str]
    passages: Sequence[str]
    model: str | None = None
    use_llm: bool = False
    top_n: int | None = None
    raw: bool = False
    echo: bool = True
    originals: Sequence[object] | None = None
    max_chunks: int = 1
    may_cut: bool = True
    is_ranked: bool = False
    request_id: str | None = None
    fields: tuple[str, str] = ("query", "passages")
    options: Mapping[str, object] = _NONE


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a passage that gave it its score: the characters `start` to `end` (exclusive),
    the part `index` (from 0) of `count` that were scored."""

    index: int
    count: int
    start: int
    end: int


class RawScores(NamedTuple):
    """What an engine answered: one raw value for each pair, in order, and the tokens it read.

    `cut` holds the indices of the pairs that the model did not read whole; `chunks` the part that
    won, by the index of each passage that was split; `reused` pairs were not scored for this
    request, since their values were known.
    """

    values: Sequence[float]
    prompt_tokens: int
    cut: Sequence[int] = ()
    chunks: Mapping[int, Chunk] = _NONE
    reused: int = 0


@dataclass(frozen=True, slots=True)
class Stages:
    """What a cascade's two models gave: `first` a raw value for each passage, `then` for those that
    were kept, by passage index."""

    first: Sequence[float]
    then: Mapping[int, float]

    def of(self, index: int) -> Literal["first", "then"]:
        """Which stage gave a passage its score."""
        return "then" if index in self.then else "first"


class RerankResult(NamedTuple):
    """What any dialect renders.

    `scores` and `raw` have one value for each passage, in the request's order (`scores` are the raw
    values where the request asked for those); `ranking` holds passage indices, the best first, cut
    to `top_n`, where the answer is a ranking; `cut` the indices of passages that the model did not
    read whole with their query; `chunks` the part that won, by the index of each that was split;
    `reused` of the scores were known before.
    """

    id: str
    model: str
    created: int
    scores: Sequence[float]
    raw: Sequence[float]
    ranking: Sequence[int]
    prompt_tokens: int
    cut: Sequence[int] = ()
    chunks: Mapping[int, Chunk] = _NONE
    reused: int = 0
    stages: Stages | None = None


def sigmoids(logits: Sequence[float]) -> list[float]:
    """The logistic function of each in float64, without overflow at either end."""
    exp = math.exp
    return [
        1.0 / (1.0 + exp(-logit)) if logit >= 0 else (power := exp(logit)) / (1.0 + power)
        for logit in logits
    ]


def cosines_to_units(cosines: Sequence[float]) -> list[float]:
    """(1 + cosine) / 2 of each. Raises EngineFault for what is no cosine: the model's `score:` is
    wrong."""
    worst = max(cosines, key=abs, default=0.0)
    if abs(worst) > 1 + COSINE_ROUNDING:
        raise EngineFault(
            f"The engine answered {worst}, which is no cosine (-1..1): the model's YAML should"
            " say `score: logit`."
        )
    units = [(1.0 + cosine) / 2.0 for cosine in cosines]
    if abs(worst) > 1:  # by rounding
        return [min(1.0, max(0.0, unit)) for unit in units]
    return units


def check_raw(values: Sequence[object], pairs: int) -> list[float]:
    """The engine's values as floats.

    Raises EngineFault for a wrong count, a value that is no number, NaN or infinity: what is not a
    score never becomes one.
    """
    if len(values) != pairs:
        raise EngineFault(f"The engine answered {len(values)} scores for {pairs} pairs: try again.")
    if set(map(type, values)) == {float} and math.isfinite(sum(values)):  # type: ignore[arg-type]
        return list(values)  # type: ignore[arg-type]  # mostly, without a look at each
    floats = []
    for index, value in enumerate(values):
        if (
            not isinstance(value, float | int)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise EngineFault(
                f"The engine answered {value!r} for pair {index}, which is no score: choose a dtype"
                " of a wider range (bfloat16) if it stays so."
            )
        floats.append(float(value))
    return floats


def rank(values: Sequence[float], top_n: int | None) -> list[int]:
    """Indices by falling value, ties by rising index, at most `top_n` of them."""
    # A reversed sort of Python keeps equal elements in their order, so ties need no second key.
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_n]


def build_result(
    request: RerankRequest, raw: RawScores, *, score: Score, model: str, id: str, created: int
) -> RerankResult:
    """The canonical result of `request`, from the engine's raw values of the kind `score`."""
    return RerankResult(
        id=id,
        model=model,
        created=created,
        scores=raw.values if request.raw else score.units(raw.values),
        raw=raw.values,
        ranking=rank(raw.values, request.top_n) if request.is_ranked else (),
        prompt_tokens=raw.prompt_tokens,
        cut=raw.cut,
        chunks=raw.chunks,
        reused=raw.reused,
    )


def join_stages(
    first: RerankResult, then: RerankResult, kept: Sequence[int], top_n: int | None
) -> RerankResult:
    """A cascade's result: `then` over the passages `kept` (by index), before `first` over the rest.

    Both rankings must be whole. Equal values of the second model keep the order of the first. The
    scores of the two stages are of different models: they compare within a stage only.
    """
    scores, raw = list(first.scores), list(first.raw)
    for place, index in enumerate(kept):
        scores[index], raw[index] = then.scores[place], then.raw[place]
    is_kept = set(kept)
    order = [kept[place] for place in then.ranking]
    order += [index for index in first.ranking if index not in is_kept]
    return first._replace(
        scores=scores,
        raw=raw,
        ranking=order[:top_n],
        prompt_tokens=first.prompt_tokens + then.prompt_tokens,
        cut=sorted({*first.cut, *(kept[place] for place in then.cut)}),
        chunks={
            **{index: chunk for index, chunk in first.chunks.items() if index not in is_kept},
            **{kept[place]: chunk for place, chunk in then.chunks.items()},
        },
        reused=first.reused + then.reused,
        stages=Stages(first.raw, {index: raw[index] for index in kept}),
    )
