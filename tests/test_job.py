"""A request in turns: nothing lost, nothing twice, none too large."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from serve.job import Job, join, size_of
from serve.rerank import RawScores, RerankRequest

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=40)


@given(TEXTS, st.booleans(), st.integers(1, 50), st.integers(1, 2000))
def test_turns_are_the_request_in_order(
    passages: list[str], is_paired: bool, pairs: int, size: int
):
    queries = [f"q {text}" for text in passages] if is_paired else ["q"]
    request = RerankRequest(queries, passages, options={"priority": 3})
    job = Job(request, size_of(request))
    assert job.is_new and job.priority == 3
    turns = []
    while job.left:
        turns.append(job.take(pairs, size, is_ahead=not turns))
        assert not job.is_new
    assert [text for turn in turns for text in turn.request.passages] == passages
    if is_paired:
        assert [text for turn in turns for text in turn.request.queries] == queries
    for turn in turns:
        assert 1 <= turn.pairs <= pairs
        first = turn is turns[0]
        assert turn.request.options == {"priority": 6 if first else 7}
        own = sum(map(sys.getsizeof, turn.request.passages))
        assert turn.pairs == 1 or own <= size
    found = join([RawScores(turn.request.passages, turn.pairs) for turn in turns])  # type: ignore[arg-type]
    assert found.values == passages and found.prompt_tokens == len(passages)


def test_a_small_request_is_one_turn_as_it_is():
    request = RerankRequest(["q"], ["a", "b"])
    job = Job(request, size_of(request))
    assert job.take(2, 10_000).request is request and not job.left


def test_a_priority_that_is_no_number_is_none():
    assert Job(RerankRequest(["q"], ["a"], options={"priority": None}), 1).priority == 0
