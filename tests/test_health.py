"""When an engine is trusted with work."""

from serve.health import FAILURES_TO_OPEN, Health


def test_failures_in_a_row_make_it_sick():
    health = Health()
    for now in range(FAILURES_TO_OPEN - 1):
        health.failed(now)
    health.answered()
    for now in range(10, 10 + FAILURES_TO_OPEN):
        assert not health.is_sick
        health.failed(now)
    assert health.is_sick and health.needs_a_probe
    assert health.troubled_since == 10 + FAILURES_TO_OPEN - 1
    health.failed(99)
    assert health.troubled_since == 10 + FAILURES_TO_OPEN - 1
    health.answered()
    assert not health.is_sick and health.troubled_since is None and not health.needs_a_probe


def test_a_probe_that_fails_is_enough():
    health = Health()
    health.failed(5, of=1)
    assert health.is_sick


def test_a_slow_one_is_not_sick():
    health = Health()
    health.lags(3)
    health.lags(4)
    assert health.is_slow and not health.is_sick and health.troubled_since == 3
    health.failed(9, of=1)
    assert health.troubled_since == 3
    health.answered()
    assert not health.is_slow


def test_a_doubt_asks_for_a_probe_and_no_more():
    health = Health()
    health.doubts()
    assert health.needs_a_probe and health.troubled_since is None and not health.is_sick
    health.answered()
    assert not health.needs_a_probe
