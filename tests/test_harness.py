"""The comparison of scores from two batches tells a wrong score from one that is only rounded."""

from collections.abc import Callable
from math import nan, nextafter
from typing import Any

import pytest

from tests import harness
from tests.harness import LOGIT_TOLERANCE, SCORE_TOLERANCE, same_logits, same_scores

Same = Callable[[Any], Any]
both = pytest.mark.parametrize(
    ("same", "tolerance"), [(same_scores, SCORE_TOLERANCE), (same_logits, LOGIT_TOLERANCE)]
)


@both
def test_a_cpu_that_promises_bits_is_held_to_them(
    monkeypatch: pytest.MonkeyPatch, same: Same, tolerance: float
):
    monkeypatch.setattr(harness, "PROMISES_BITS", True)
    right = same([0.25, 0.5])
    assert right == [0.25, 0.5]
    for value in (nextafter(0.5, 1), 0.5 + tolerance / 2, 0.5 + 2 * tolerance):
        assert right != [0.25, value]


@both
def test_another_may_move_the_last_digits(
    monkeypatch: pytest.MonkeyPatch, same: Same, tolerance: float
):
    monkeypatch.setattr(harness, "PROMISES_BITS", False)
    right = same([0.25, 0.5])
    for step in (tolerance, -tolerance):
        assert right == [0.25, 0.5 + step / 2]
        assert right != [0.25, 0.5 + 2 * step]
    for wrong in ([0.5, 0.25], [0.25], [0.25, nan]):
        assert right != wrong
