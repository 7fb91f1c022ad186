"""Pure: whether what a server answered is what a reference says. Nothing here does I/O.

`compare` is given a `Reference` and what was `Observed`, and tells it in a `Report`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from clients.report import Check, Report, Row

# How far the scores of a dtype may lie from those of float32 on the same weights, in score units.
TOLERANCES: Mapping[str, float] = {"float32": 1e-5, "float16": 8e-3, "bfloat16": 5e-2}
ALIASES: Mapping[str, str] = {"float": "float32", "half": "float16"}
ALONE_FLOAT32 = 1e-6  # a kernel may sum a batch of another shape in another order
PLAIN = "/rerank"  # the answer that is compared with the reference, and the others with it


@dataclass(frozen=True)
class Example:
    """A query, its passages and the score of each, 0..1, in their order."""

    query: str
    passages: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True)
class Reference:
    """The scores that `model` gave in `dtype`, a key of TOLERANCES, and where they are from."""

    model: str
    dtype: str
    source: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Scored:
    """A server's scores of one example: of the whole batch by each path, and passage by passage."""

    by_path: Mapping[str, Sequence[float]]
    alone: Sequence[float]


@dataclass(frozen=True)
class Observed:
    """What a server said. `scored` has one item for each example, or none if it lacks the model."""

    served: Sequence[str]  # the names that it serves
    dtype: str | None = None  # what it computes in, if it tells
    scored: Sequence[Scored] = ()
    revision: str | None = None  # of the model's weights, if it tells


def known_dtype(name: object) -> str | None:
    """A dtype by its one name here, or None when it is unknown, "auto" or not told."""
    text = name.lower().removeprefix("torch.") if isinstance(name, str) else ""
    text = ALIASES.get(text, text)
    return text if text in TOLERANCES else None


def find_name(wanted: str, served: Sequence[str]) -> str | None:
    """The served name that means `wanted`, in the server's spelling, or None.

    Case does not count. `org/name` and `name` mean each other; two that both have an org do not,
    unless they are equal.
    """
    low = wanted.lower()
    for name in served:
        if name.lower() == low:
            return name
    for name in served:
        other = name.lower()
        if ("/" in low) != ("/" in other) and low.split("/")[-1] == other.split("/")[-1]:
            return name
    return None


def tolerance_for(reference: str, served: str | None) -> float:
    """The larger tolerance of the two dtypes; of the reference's alone if `served` is unknown."""
    return max(TOLERANCES[reference], TOLERANCES[known_dtype(served) or reference])


def compare(
    reference: Reference,
    observed: Observed,
    *,
    model: str | None = None,
    tolerance: float | None = None,
) -> Report:
    """Every check. `model` is the name that was asked for, the reference's by default;
    `tolerance`, in score units, is used in place of that of the dtypes."""
    dtype = known_dtype(observed.dtype) or reference.dtype
    allowed = tolerance_for(reference.dtype, dtype) if tolerance is None else tolerance
    exact = dtype == "float32"
    wanted = model or reference.model
    model_check = _model(wanted, observed.served)
    rows: list[Row] = []
    checks = [model_check]
    if model_check.ok:
        _same_length(reference, observed)
        rows = list(_rows(reference, observed, allowed))
        checks += [
            _scores(rows, allowed),
            _order(reference, observed, allowed),
            _dialects(observed, 0.0 if exact else allowed),
            _alone(observed, ALONE_FLOAT32 if exact else allowed),
            _range(observed),
        ]
    return Report(wanted, dtype, reference.dtype, reference.source, allowed, rows, checks)


def _same_length(reference: Reference, observed: Observed) -> None:
    """Raises ValueError when `observed` is not of these examples; the caller mixed them up."""
    for example, scored in zip(reference.examples, observed.scored, strict=True):
        for scores in (example.scores, scored.alone, *scored.by_path.values()):
            if len(scores) != len(example.passages):
                raise ValueError(f"{len(scores)} scores for {len(example.passages)} passages")


def _near(one: float, other: float, allowed: float) -> bool:
    return abs(one - other) <= allowed  # false for a NaN


def _rows(reference: Reference, observed: Observed, allowed: float) -> Iterator[Row]:
    for number, (example, scored) in enumerate(
        zip(reference.examples, observed.scored, strict=True), 1
    ):
        got = scored.by_path[PLAIN]
        for passage, want, score in zip(example.passages, example.scores, got, strict=True):
            yield Row(number, example.query, passage, want, score, _near(score, want, allowed))


def _model(wanted: str, served: Sequence[str]) -> Check:
    if name := find_name(wanted, served):
        return Check("model", f"served as {name}")
    names = ", ".join(served) or "nothing"
    return Check("model", "", [f"{wanted} is not served here; served: {names}"])


def _scores(rows: Sequence[Row], allowed: float) -> Check:
    wrong = [
        f"example {row.example}, {row.short!r}: expected {row.expected:.8g}, got {row.got:.8g}"
        for row in rows
        if not row.ok
    ]
    return Check("scores", f"{len(rows)} within {allowed:g} of the reference", wrong)


def _order(reference: Reference, observed: Observed, allowed: float) -> Check:
    """Every two passages that are further apart than both may err must come in that order."""
    wrong, pairs = [], 0
    for number, (example, scored) in enumerate(
        zip(reference.examples, observed.scored, strict=True), 1
    ):
        got, want = scored.by_path[PLAIN], example.scores
        for high, low in permutations(range(len(want)), 2):
            if want[high] - want[low] > 2 * allowed:
                pairs += 1
                if not got[high] > got[low]:
                    wrong.append(f"example {number}: passage {high} must come before {low}")
    return Check("order", f"{pairs} pairs of passages in the reference's order", wrong)


def _dialects(observed: Observed, allowed: float) -> Check:
    wrong, paths = [], []
    for number, scored in enumerate(observed.scored, 1):
        paths = list(scored.by_path)
        for path, scores in scored.by_path.items():
            for index, (score, plain) in enumerate(zip(scores, scored.by_path[PLAIN], strict=True)):
                if not _near(score, plain, allowed):
                    where = f"example {number}, passage {index}"
                    wrong.append(f"{where}: {path} gives {score:.8g}, {PLAIN} {plain:.8g}")
    how = f"within {allowed:g}" if allowed else "to the last digit"
    return Check("dialects", f"{', '.join(paths)} agree {how}", wrong)


def _alone(observed: Observed, allowed: float) -> Check:
    wrong = [
        f"example {number}, passage {index}: {alone:.8g} alone, {whole:.8g} among the others"
        for number, scored in enumerate(observed.scored, 1)
        for index, (alone, whole) in enumerate(
            zip(scored.alone, scored.by_path[PLAIN], strict=True)
        )
        if not _near(alone, whole, allowed)
    ]
    return Check("alone", f"a passage alone scores as among others, within {allowed:g}", wrong)


def _range(observed: Observed) -> Check:
    wrong = [
        f"example {number}, passage {index}: {where} gives {score:.8g}"
        for number, scored in enumerate(observed.scored, 1)
        for where, scores in {**scored.by_path, "alone": scored.alone}.items()
        for index, score in enumerate(scores)
        if not 0 <= score <= 1  # a NaN is not either
    ]
    return Check("range", "all scores are finite and within 0..1", wrong)
