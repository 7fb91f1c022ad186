"""How good rankings are, by `ir-measures`, and how sure that is. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import RR, R, nDCG
from scipy import stats

from benchmarks.quality.collection import Grades, Run

Floats = npt.NDArray[np.float64]
Span = tuple[float, float]
CUTOFF = 10
MAIN = f"nDCG@{CUTOFF}"
RESAMPLES = 10_000
BATCH = 500  # resamples at once: of 10,000 queries, 40 MB
SURE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries and its 95 % interval, None of a single query."""

    mean: float
    span: Span | None

    @property
    def is_significant(self) -> bool | None:
        """Of a difference: whether the interval leaves out 0."""
        return None if self.span is None else self.span[0] > 0 or self.span[1] < 0


def per_query(
    run: Run, grades: Grades, queries: Sequence[str], *, depth: int, threshold: int
) -> Mapping[str, Floats]:
    """Of each measure its values, in the order of `queries`; 0 where a query found nothing.

    nDCG takes grades as linear gains; the others count a document from `threshold` on.
    """
    cutoffs = sorted({CUTOFF, depth})
    recalls = [R(rel=threshold) @ cutoff for cutoff in cutoffs]
    measures = [nDCG @ CUTOFF, RR(rel=threshold) @ CUTOFF, *recalls]
    wanted = {query: grades[query] for query in queries}
    # Places stand for scores, which would be sorted anew, and equal ones by their ids.
    scored = {query: as_scores(run.get(query, ())) for query in queries}
    found: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    for value in ir_measures.iter_calc(measures, wanted, scored):
        found[str(value.measure)][value.query_id] = value.value
    return {name: np.array([of[query] for query in queries]) for name, of in found.items()}


def as_scores(ranking: Sequence[str]) -> dict[str, float]:
    """Whole numbers that fall from the first document to the last, which has 1."""
    return {id: float(len(ranking) - place) for place, id in enumerate(ranking)}


def estimate(values: Floats, seed: int) -> Estimate:
    """The mean with its percentile bootstrap over queries (Efron 1979).

    Of differences of two rankings, query by query, it is the paired bootstrap.
    """
    if len(values) < 2:
        return Estimate(float(values.mean()), None)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=SURE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(values.mean()), (float(found.low), float(found.high)))
