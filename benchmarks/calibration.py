"""Pure: Platt scaling of raw values, how sure the fit is, and how good the probabilities are.

p = 1 / (1 + exp(-(x / temperature + bias))): Platt, "Probabilistic Outputs for Support Vector
Machines" (1999), written with a temperature as in Guo et al., "On Calibration of Modern Neural
Networks" (2017). The temperature is above 0, so the order of the raw values x is kept.

Arrays are one-dimensional, one entry for each pair: `raw` holds the engine's values, `labels` 0 or
1, `groups` the number of the pair's query, `probabilities` 0..1.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
    from sklearn.model_selection import GroupKFold
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: {error.name} is not installed: `python3 deploy/install.py --dev` installs it"
    ) from None

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 10
RESAMPLES = 200
FEWEST_RESAMPLES = 100  # fewer that could be fitted say nothing about 95 %
POINTS = 101  # raw values at which the probability's interval is taken
COSINE_ROUNDING = 0.01  # how far beyond -1..1 half-precision arithmetic takes a cosine
AUC_ROUNDING = 1e-6  # two raw values a float apart may be one after the map


class CalibrationError(Exception):
    """Pairs that no calibration can be fitted to: why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A temperature above 0 (in the raw value's unit) and a bias (in logits)."""

    temperature: float
    bias: float

    def logits(self, raw: Floats) -> Floats:
        return raw / self.temperature + self.bias

    def probabilities(self, raw: Floats) -> Floats:
        return sigmoid(self.logits(raw))


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of similar probability: how many, their mean probability, the share that is 1."""

    pairs: int
    probability: float
    share: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How good probabilities are, all but `auc` the lower the better; `log_loss` is in nats."""

    brier: float
    log_loss: float
    ece: float
    auc: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """From the 2.5 to the 97.5 percentile of resamples; None when too few could be fitted.

    `widest` is the probability's widest interval at any raw value of the pairs. The bias's own may
    be wide without harm where no raw value is near 0, as it goes with the temperature's.
    """

    temperature: tuple[float, float] | None
    bias: tuple[float, float] | None
    widest: tuple[float, float] | None
    failed: int


def sigmoid(logits: Floats) -> Floats:
    """The logistic function, without overflow at either end."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), dtype=np.float64)


def uncalibrated(raw: Floats, of: str) -> Floats:
    """The scores that a model has without calibration: `of` is `logit` or `cosine`."""
    if of == "logit":
        return sigmoid(raw)
    if np.abs(raw).max() > 1 + COSINE_ROUNDING:
        raise CalibrationError(
            f"raw values reach {raw[np.abs(raw).argmax()]:g}, which is no cosine (-1..1): use"
            " --of logit"
        )
    return np.clip((1.0 + raw) / 2.0, 0.0, 1.0)


def fit(raw: Floats, labels: Ints, weights: Floats | None = None) -> Fit:
    """The temperature and bias of largest likelihood, without regularisation.

    Raises CalibrationError where none is finite, or where the order would be reversed.
    """
    used = np.ones(len(raw), dtype=bool) if weights is None else weights > 0
    _check_that_classes_overlap(raw[used & (labels == 1)], raw[used & (labels == 0)])
    # Standardised, so that one tolerance serves cosines and logits alike.
    centre, scale = raw.mean(), raw.std()
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.simplefilter("error", RuntimeWarning)  # LinAlgWarning: labels all but separated
        try:
            model.fit(((raw - centre) / scale)[:, None], labels, sample_weight=weights)
        except Warning as warning:
            raise CalibrationError(f"the fit does not converge: {warning}") from warning
    slope = float(model.coef_[0, 0]) / float(scale)
    if slope <= 0:
        raise _reversed(f"their slope is {slope:.3g}")
    return Fit(1.0 / slope, float(model.intercept_[0]) - slope * float(centre))


def _check_that_classes_overlap(relevant: Floats, other: Floats) -> None:
    """Raises CalibrationError unless the likelihood has a maximum (Albert and Anderson 1984)."""
    if not len(relevant) or not len(other):
        raise CalibrationError("all pairs have the same label: add pairs of the other one")
    if relevant.min() == relevant.max() == other.min() == other.max():
        raise CalibrationError("all raw values are the same: the model tells nothing apart")
    if relevant.max() <= other.min():
        raise _reversed("every relevant pair is below every other one")
    if relevant.min() >= other.max():
        raise CalibrationError(
            "the raw values tell the labels apart without a mistake, so no temperature is small"
            " enough: add harder pairs, such as passages that rank high and are not relevant"
        )


def _reversed(why: str) -> CalibrationError:
    return CalibrationError(
        f"the raw values are ordered against the labels ({why}), and a calibration never reverses"
        " the order: check that label 1 means relevant, and that this is the right model"
    )


def held_out(raw: Floats, labels: Ints, groups: Ints, *, folds: int, seed: int) -> Floats:
    """Each pair's probability by a fit that saw none of its query's pairs.

    `folds` is at most the number of queries. Raises CalibrationError.
    """
    probabilities = np.empty(len(raw))
    splits = GroupKFold(folds, shuffle=True, random_state=seed).split(raw, labels, groups)
    for number, (seen, unseen) in enumerate(splits, 1):
        try:
            probabilities[unseen] = fit(raw[seen], labels[seen]).probabilities(raw[unseen])
        except CalibrationError as error:
            raise CalibrationError(
                f"without the queries of fold {number} of {folds}: {error} (more queries help)"
            ) from error
    return probabilities


def intervals(raw: Floats, labels: Ints, groups: Ints, *, seed: int) -> Intervals:
    """95 % bootstrap intervals: queries, not pairs, are drawn with replacement (Efron 1979)."""
    fits, failed = [], 0
    for weights in _resamples(groups, seed):
        try:
            fits.append(fit(raw, labels, weights))
        except CalibrationError:
            failed += 1
    if len(fits) < FEWEST_RESAMPLES:
        return Intervals(None, None, None, failed)
    return Intervals(
        _percentiles([one.temperature for one in fits]),
        _percentiles([one.bias for one in fits]),
        _widest(raw, fits),
        failed,
    )


def _widest(raw: Floats, fits: Sequence[Fit]) -> tuple[float, float]:
    points = np.quantile(raw, np.linspace(0, 1, POINTS)).astype(np.float64)
    lows, highs = np.percentile([one.probabilities(points) for one in fits], [2.5, 97.5], axis=0)
    at = int((highs - lows).argmax())
    return float(lows[at]), float(highs[at])


def _resamples(groups: Ints, seed: int) -> Iterator[Floats]:
    """How often each pair's query was drawn."""
    source = np.random.default_rng(seed)
    names, places = np.unique(groups, return_inverse=True)
    for _ in range(RESAMPLES):
        drawn = source.integers(len(names), size=len(names))
        yield np.bincount(drawn, minlength=len(names)).astype(np.float64)[places]


def _percentiles(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def bins(probabilities: Floats, labels: Ints, count: int = BINS) -> list[Bin]:
    """At most `count` bins of about equally many pairs, by rising probability.

    Equal probabilities share a bin, so the bins do not depend on the order of the pairs.
    """
    _, places, pairs = np.unique(probabilities, return_inverse=True, return_counts=True)
    middles = np.cumsum(pairs) - pairs / 2  # the middle rank of each distinct probability
    numbers = (middles * count / len(probabilities)).astype(np.int64)[places]
    chosen = [numbers == number for number in np.unique(numbers)]
    return [
        Bin(int(one.sum()), float(probabilities[one].mean()), float(labels[one].mean()))
        for one in chosen
    ]


def ece(probabilities: Floats, labels: Ints, count: int = BINS) -> float:
    """Expected calibration error, 0..1: the bins' mean distance between probability and share.

    Equation 3 of Guo et al. (2017), over bins of equal mass instead of equal width.
    """
    return sum(
        one.pairs * abs(one.probability - one.share) for one in bins(probabilities, labels, count)
    ) / len(probabilities)


def quality(probabilities: Floats, labels: Ints, order: Floats) -> Quality:
    """`order` is what ranks the pairs: raw values or logits, which do not saturate as p does."""
    return Quality(
        brier=float(brier_score_loss(labels, probabilities)),
        log_loss=float(log_loss(labels, probabilities, labels=[0, 1])),
        ece=ece(probabilities, labels),
        auc=float(roc_auc_score(labels, order)),
    )


def check_order(raw: Floats, mapped: Floats, before: Quality, after: Quality) -> None:
    """Raises CalibrationError unless `mapped` keeps the order of `raw`, and the AUC with it."""
    falls = np.diff(mapped[np.argsort(raw, kind="stable")]) < 0
    if falls.any() or abs(before.auc - after.auc) > AUC_ROUNDING:
        raise CalibrationError(
            f"the calibration would change the order (AUC {before.auc} to {after.auc}):"
            " the raw values are too close to each other for float64"
        )
