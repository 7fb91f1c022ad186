"""What is let in, and when those who are not should come again."""

import pytest

from serve.admission import MOST_RETRY_AFTER_S, Admission
from serve.engine import RETRY_AFTER_S
from serve.errors import Overloaded
from serve.events import Events
from serve.pace import Pace
from serve.spec import Limits


class Shed(Events):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def shed(self, model: str, reason: str) -> None:
        self.reasons.append(reason)


def admission(rate: float = 0, **limits: float) -> tuple[Admission, Shed]:
    pace, shed = Pace(), Shed()
    if rate:
        pace.record(int(rate), 100, 1, 0.1, is_full=True)
    return Admission("m", Limits(**limits), pace, shed), shed  # type: ignore[arg-type]


def refused(admission: Admission, pairs: int, size: int = 1, left_s: float = 300) -> Overloaded:
    with pytest.raises(Overloaded) as error, admission.admit(pairs, size, left_s):
        pass
    return error.value


def test_one_alone_is_let_in_whatever_it_is():
    gate, _ = admission(rate=10, pairs_in_flight=3, bytes_in_flight=3)
    with gate.admit(1000, 1000, 0.1) as ticket:
        assert (gate.requests, gate.pairs, gate.size) == (1, 1000, 1000)
        assert ticket.pairs == 1000
    assert (gate.requests, gate.pairs, gate.size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("limits", "pairs", "size", "reason"),
    [({"pairs_in_flight": 10}, 6, 1, "pairs"), ({"bytes_in_flight": 10}, 1, 6, "bytes")],
)
def test_room(limits: dict[str, float], pairs: int, size: int, reason: str):
    gate, shed = admission(**limits)
    with gate.admit(5, 5):
        error = refused(gate, pairs, size)
        assert error.retry_after == RETRY_AFTER_S  # nothing is known of the pace
        assert f"{reason}_in_flight" in error.message
        with gate.admit(5, 5):
            pass
    assert shed.reasons == [reason]
    assert (gate.requests, gate.pairs, gate.size) == (0, 0, 0)


def test_retry_after_is_when_there_will_be_room():
    gate, _ = admission(rate=10, pairs_in_flight=100)
    with gate.admit(90, 1):
        assert refused(gate, 40).retry_after == 3  # 30 pairs too many, 10 a second
        assert refused(gate, 10**6).retry_after == MOST_RETRY_AFTER_S


def test_what_is_scored_makes_room():
    gate, _ = admission(rate=10, pairs_in_flight=100)
    with gate.admit(90, 1) as ticket:
        refused(gate, 40)
        ticket.scored(60)
        with gate.admit(40, 1):
            assert gate.pairs == 70
        ticket.scored(10**6)
        assert gate.pairs == 0
    assert gate.pairs == 0


def test_nothing_waits_longer_than_it_may():
    gate, shed = admission(rate=10, wait_s=5)
    with gate.admit(40, 1), gate.admit(60, 1):
        error = refused(gate, 100)  # behind 100 pairs: 10 s
        assert error.retry_after == 5 and "limits: {wait_s" in error.message
        with gate.admit(4, 1, 300):  # before it, four of each are done
            pass
        with gate.admit(100, 1):  # a cascade's second stage
            pass
    assert shed.reasons == ["wait"]


def test_nothing_is_let_in_that_would_come_too_late():
    gate, shed = admission(rate=10)
    with gate.admit(60, 1):
        # 60 before it, 16 in its first turn, twice the 44 behind that: 16.4 s
        error = refused(gate, 60, left_s=10)
        assert error.retry_after == 9 and "give it more time" in error.message
        with gate.admit(4, 1, 10):
            pass
    assert shed.reasons == ["deadline"]


def test_only_what_goes_before_it_is_waited_for():
    gate, _ = admission(rate=10)
    with gate.admit(60, 1, priority=5):
        with gate.admit(4, 1, 1.0, priority=0):
            refused(gate, 4, left_s=0.9)
        with pytest.raises(Overloaded), gate.admit(60, 1, 9.0, priority=5):
            pass


def test_one_that_is_in_may_grow():
    gate, _ = admission(pairs_in_flight=10)
    with gate.admit(2, 2) as ticket:
        gate.grow(ticket, 100, 50)  # alone
        assert (gate.pairs, gate.size) == (102, 52)
        gate.grow(ticket, -96, -50)
        with gate.admit(2, 2):
            with pytest.raises(Overloaded, match="2 pairs are in flight and the limit is 10"):
                gate.grow(ticket, 3, 0)
            assert gate.pairs == 8
    assert (gate.pairs, gate.size) == (0, 0)


def test_what_fails_is_given_back():
    gate, _ = admission()
    with pytest.raises(ZeroDivisionError), gate.admit(2, 2):
        raise ZeroDivisionError
    assert (gate.requests, gate.pairs, gate.size) == (0, 0, 0)
