"""How a measured rate becomes turns and waits."""

import pytest

from serve.pace import LEAST_BYTES, LEAST_PAIRS, MOST_BYTES, MOST_PAIRS, SLOW_S, SLOW_TIMES, Pace


def measured(rate: float, *, size: int = 100, seconds: float = 60, is_full: bool = True) -> Pace:
    """A pace after some time of work at `rate` pairs per second, in turns of 16."""
    pace = Pace()
    for _ in range(int(seconds * rate / 16)):
        pace.record(16, 16 * size, 16 / rate, 32 / rate, is_full=is_full)
    return pace


def test_nothing_is_known_at_first():
    pace = Pace()
    assert pace.rate == 0 and pace.seconds(1000) == 0
    assert pace.turn(1) == (LEAST_PAIRS, LEAST_BYTES)
    assert pace.slow_after_s(1) == SLOW_S


def test_the_rate_is_what_was_measured():
    pace = measured(400)
    assert pace.rate == pytest.approx(400)
    assert pace.seconds(1000) == pytest.approx(2.5)


def test_turns_are_a_twentieth_of_a_second_of_work():
    assert measured(2000, size=1000).turn(1)[0] == pytest.approx(100, abs=1)
    assert measured(2000, size=1000).turn(2)[0] == pytest.approx(50, abs=1)
    assert measured(20).turn(1) == (LEAST_PAIRS, LEAST_BYTES)
    assert measured(5).turn(1)[0] == 5  # a second of work
    assert measured(0.3, seconds=600).turn(1)[0] == 1
    assert measured(10**5, size=10_000).turn(1) == (MOST_PAIRS, MOST_BYTES)


def test_it_follows_what_changes():
    pace = measured(400)
    for _ in range(200):
        pace.record(16, 1600, 16 / 40, 32 / 40, is_full=True)
    assert pace.rate == pytest.approx(40, rel=0.05)


def test_an_engine_that_is_not_asked_for_more_is_not_slow():
    pace = measured(400)
    for _ in range(1000):
        pace.record(1, 100, 0.02, 0.02, is_full=False)
    assert pace.rate == pytest.approx(400)
    for _ in range(1000):  # but one that does more than was known is fast
        pace.record(16, 100, 0.02, 0.02, is_full=False)
    assert pace.rate == pytest.approx(800, rel=0.05)


def test_an_engine_that_was_never_asked_for_all_it_can_is_not_known():
    assert measured(400, is_full=False).rate == 0


def test_turns_that_are_answered_at_once_are_one():
    pace = Pace()
    for _ in range(500):  # two engines, each 16 pairs in 40 ms, in step
        pace.record(16, 1600, 0.04, 0.04, is_full=True)
        pace.record(16, 1600, 0.0, 0.04, is_full=True)
    assert pace.rate == pytest.approx(800, rel=0.01)
    for _ in range(500):
        pace.record(16, 1600, 0.04, 0.04, is_full=False)
        pace.record(16, 1600, 0.0, 0.04, is_full=False)
    assert pace.rate == pytest.approx(800, rel=0.01)


def test_a_guess_is_soon_forgotten():
    pace = Pace()
    pace.guess(2, 200, 0.1, 2)
    assert pace.rate == pytest.approx(40)
    assert pace.seconds(640) == pytest.approx(2)  # nobody is refused who may well be served
    pace.guess(2, 200, 100, 1)
    assert pace.rate == pytest.approx(40)
    pace.record(16, 1600, 0.04, 0.04, is_full=True)
    assert pace.rate == pytest.approx(400)
    assert pace.seconds(800) == pytest.approx(2)


def test_a_slow_turn_is_told_from_the_usual_ones():
    pace = Pace()
    for _ in range(50):
        pace.record(16, 1600, 1, 2, is_full=True)
    assert pace.slow_after_s(1) == pytest.approx(2 * SLOW_TIMES)
    assert pace.slow_after_s(64) == pytest.approx(8 * SLOW_TIMES)
