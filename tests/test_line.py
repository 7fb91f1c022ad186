"""Who is next: fairness, priorities, and that nobody is forgotten."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve.line import Line


def pop(line: Line[Any]) -> Any:
    """Who is next, taken out."""
    waiter = line.candidates()[0]
    line.take(waiter)
    return waiter


def drain(line: Line[str], turns: dict[str, int]) -> list[str]:
    """Gives turns until all have had as many as they want; everyone waits from the beginning."""
    for name in turns:
        line.add(name, priority=0, is_new=True)
    order = []
    while line:
        name = pop(line)
        order.append(name)
        turns[name] -= 1
        if turns[name]:
            line.add(name, priority=0, is_new=False)
    return order


def test_a_small_one_does_not_wait_for_a_large_one():
    line: Line[str] = Line()
    line.add("large", priority=0, is_new=False)
    line.add("small", priority=0, is_new=True)
    assert [pop(line), pop(line)] == ["small", "large"]


def test_a_stream_of_small_ones_does_not_stop_a_large_one():
    line: Line[str] = Line()
    for number in range(6):
        line.add(f"small {number}", priority=0, is_new=True)
    line.add("large", priority=0, is_new=False)
    line.add("larger", priority=0, is_new=False)
    order = [pop(line) for _ in range(8)]
    assert order[:4] == ["small 0", "large", "small 1", "larger"]
    assert order[4:] == [f"small {number}" for number in range(2, 6)]


def test_large_ones_take_turns():
    assert drain(Line(), {"a": 3, "b": 3}) == ["a", "a", "b", "a", "b", "b"]


def test_the_lowest_priority_goes_first():
    line: Line[str] = Line()
    for name, priority in (("later", 5), ("now", -1), ("usual", 0), ("also now", -1)):
        line.add(name, priority=priority, is_new=True)
    assert [pop(line) for _ in range(4)] == ["now", "also now", "usual", "later"]


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), max_size=30), st.data())
def test_everyone_who_waits_is_given_a_turn_once(
    waiters: list[tuple[int, bool]], data: st.DataObject
):
    line: Line[int] = Line()
    for number, (priority, is_new) in enumerate(waiters):
        line.add(number, priority=priority, is_new=is_new)
    gone = set(data.draw(st.lists(st.integers(0, 40))))
    for number in gone:
        line.discard(number)
    left = [number for number in range(len(waiters)) if number not in gone]
    assert len(line) == len(left)
    order = []
    while line:
        expected = line.candidates()[0]
        order.append(pop(line))
        assert order[-1] == expected
    assert sorted(order) == left
    for kind in (True, False):  # first come, first served
        for priority in range(-2, 3):
            same = [number for number in order if waiters[number] == (priority, kind)]
            assert same == sorted(same)
    assert line.candidates() == []


def test_room_is_kept_for_those_that_have_had_no_turn():
    line: Line[str] = Line()
    line.add("large", priority=0, is_new=False)
    line.add("later", priority=1, is_new=True)
    assert line.candidates() == ["large"]  # none of a later priority goes before it
    line.add("small", priority=0, is_new=True)
    assert pop(line) == "small"
    line.add("smaller", priority=0, is_new=True)
    assert line.candidates() == ["large", "smaller"]
    line.take("smaller")
    assert line.candidates() == ["large"]


def test_all_can_be_sent_away():
    line: Line[str] = Line()
    line.add("a", priority=0, is_new=True)
    line.add("b", priority=1, is_new=False)
    assert line.clear() == ["a", "b"] and not line
    line.discard("a")
    line.add("a", priority=0, is_new=False)
    assert pop(line) == "a"
