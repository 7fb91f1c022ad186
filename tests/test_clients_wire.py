"""What clients send and how they read it: nothing but one finite score for each passage passes."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import BadAnswer
from clients.wire import (
    MOST_CUT,
    Answer,
    Chunk,
    Ranked,
    in_order,
    is_cut,
    is_unicode,
    read_cut,
    read_ranking,
    read_scores,
    rerank_body,
    score_body,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
items = st.lists(st.tuples(finite, finite), min_size=1, max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def answer_of(pairs: list[tuple[float, float]], order: list[int]) -> dict[str, Any]:
    return {
        "results": [
            {"index": i, "relevance_score": pairs[i][0], "raw_score": pairs[i][1]} for i in order
        ]
    }


@given(items, st.data())
def test_a_ranking_is_read_as_it_was_sent(pairs: list[tuple[float, float]], data: st.DataObject):
    order = data.draw(st.permutations(range(len(pairs))))
    passages = [f"passage {i}" for i in range(len(pairs))]
    body = json.loads(json.dumps(answer_of(pairs, order)))
    ranking = read_ranking(Answer(body), passages, None)
    assert [item.index for item in ranking] == order
    assert all(item.text == passages[item.index] for item in ranking)
    assert in_order(ranking) == [score for score, _ in pairs]
    assert [item.raw_score for item in ranking] == [pairs[i][1] for i in order]


@given(items, st.data())
def test_an_answer_with_a_hole_is_refused(pairs: list[tuple[float, float]], data: st.DataObject):
    """Any one thing changed: a result lost or doubled, or a value in it that is another."""
    body = answer_of(pairs, list(range(len(pairs))))
    results = body["results"]
    index = data.draw(st.integers(0, len(pairs) - 1))
    kind = data.draw(st.sampled_from(["lose", "double", "index", "score", "raw"]))
    if kind == "lose":
        del results[index]
    elif kind == "double":
        results.append(results[index])
    elif kind == "index":
        other = JSON | st.integers(-1, len(pairs))
        results[index]["index"] = data.draw(other.filter(lambda v: v != index or type(v) is bool))
    else:
        wrong = st.sampled_from([math.nan, math.inf, -math.inf, "0.5", True, [], {}, 10**400])
        results[index]["relevance_score" if kind == "score" else "raw_score"] = data.draw(wrong)
    with pytest.raises(BadAnswer):
        read_ranking(Answer(body), ["text"] * len(pairs), None)


@given(JSON, st.text(), st.integers(0, 3))
def test_any_json_is_a_ranking_or_a_bad_answer(body: object, cut: str, count: int):
    for read in (
        lambda: read_ranking(Answer(body, cut), ["a"] * count, None),
        lambda: read_scores(Answer(body, cut), count),
    ):
        with contextlib.suppress(BadAnswer):
            assert len(read()) == count  # type: ignore[no-untyped-call]


PART = {"index": 0, "count": 1, "start": 0, "end": 4}


@pytest.mark.parametrize(
    "chunk",
    [
        "0:4",
        [0, 1, 0, 4],
        {},
        {**PART, "index": 1},
        {**PART, "index": -1},
        {**PART, "index": False},
        {**PART, "start": -1},
        {**PART, "start": 0.0},
        {**PART, "start": 3, "end": 2},
        {**PART, "end": 5},  # beyond the text
        {**PART, "end": None},
    ],
    ids=str,
)
def test_a_part_that_is_none(chunk: object):
    item = {"index": 0, "relevance_score": 1, "chunk": PART}
    assert read_ranking(Answer({"results": [item]}), ["text"], None)[0].chunk == Chunk(0, 1, 0, 4)
    with pytest.raises(BadAnswer, match="no part of a passage of 4 characters"):
        read_ranking(Answer({"results": [{**item, "chunk": chunk}]}), ["text"], None)


def test_what_other_servers_leave_out():
    body = {"results": [{"index": 0, "relevance_score": 1, "raw_score": None, "stage": 3}]}
    assert read_ranking(Answer(body), ["a"], None) == [Ranked(0, 1.0, "a")]


def test_scores_are_put_in_order():
    body = {"data": [{"index": 1, "score": 0.1}, {"index": 0, "score": 1}]}
    assert read_scores(Answer(body), 2) == [1.0, 0.1]


def test_what_was_cut():
    assert read_cut("") == frozenset() and read_cut(" ") == frozenset()
    some = read_cut("3, 7")
    assert [is_cut(index, some) for index in (2, 3, 7, 9)] == [False, True, True, False]
    full = read_cut(",".join(str(2 * index) for index in range(MOST_CUT)))
    last = 2 * (MOST_CUT - 1)
    assert [is_cut(i, full) for i in (0, 1, last, last + 1)] == [True, False, True, None]
    with pytest.raises(BadAnswer):
        read_cut("1;2")


def test_bodies_have_what_was_given():
    options = {"model": "m", "use_llm": True, "instruction": None, "max_tokens_per_doc": 0}
    given = {"model": "m", "use_llm": True, "max_tokens_per_doc": 0}
    assert rerank_body("q", ("a",), None, options) == {"query": "q", "documents": ["a"], **given}
    assert rerank_body("q", ["a"], 3, {})["top_n"] == 3
    assert score_body("q", ("a",), options) == {"text_1": "q", "text_2": ["a"], **given}


@given(st.text(st.characters()))
def test_unicode(text: str):
    assert is_unicode(text) == (not any("\ud800" <= sign <= "\udfff" for sign in text))
