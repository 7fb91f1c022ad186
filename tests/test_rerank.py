"""The pure core: scores, checks and ranking."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import EngineFault
from serve.rerank import (
    Chunk,
    RawScores,
    RerankRequest,
    Score,
    build_result,
    check_raw,
    cosines_to_units,
    join_stages,
    rank,
)
from serve.texts import texts_of, with_texts
from tests.readers import sigmoid

finite = st.floats(allow_nan=False, allow_infinity=False)


def cosine_to_unit(cosine: float) -> float:
    return cosines_to_units([cosine])[0]


@pytest.mark.parametrize(
    ("logit", "score"),
    [
        (0.0, 0.5),
        (2.0, 0.8807970779778823),
        (-2.0, 0.11920292202211755),
        (800.0, 1.0),
        (-800.0, 0.0),
        (-10.194662, 3.7371e-05),
    ],
)
def test_sigmoid_values(logit: float, score: float):
    assert sigmoid(logit) == pytest.approx(score, rel=1e-4, abs=0)


@given(finite)
def test_sigmoid_stays_in_0_1_and_is_symmetric(logit: float):
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0, abs=1e-15)


@given(finite, finite)
def test_score_functions_keep_the_order(a: float, b: float):
    low, high = sorted((a, b))
    assert sigmoid(low) <= sigmoid(high)
    assert cosine_to_unit(math.tanh(low)) <= cosine_to_unit(math.tanh(high))


@pytest.mark.parametrize(
    ("cosine", "score"), [(1.0, 1.0), (-1.0, 0.0), (0.0, 0.5), (1.0000001, 1.0), (-1.001, 0.0)]
)
def test_cosine_values(cosine: float, score: float):
    assert cosine_to_unit(cosine) == score


@pytest.mark.parametrize("value", [7.3, -1.2, 1.02])
def test_what_is_no_cosine_is_refused(value: float):
    with pytest.raises(EngineFault, match="no cosine"):
        cosine_to_unit(value)


@pytest.mark.parametrize(
    ("values", "pairs", "words"),
    [
        ([1.0], 2, "1 scores for 2 pairs"),
        ([1.0, 2.0, 3.0], 2, "3 scores for 2 pairs"),
        ([1.0, math.nan], 2, "nan for pair 1"),
        ([math.inf, 1.0], 2, "inf for pair 0"),
        ([1.0, None], 2, "None for pair 1"),
        ([1.0, True], 2, "True for pair 1"),
        ([1.0, "0.5"], 2, "'0.5' for pair 1"),
        ([[1.0], 2.0], 2, r"\[1.0\] for pair 0"),
    ],
)
def test_what_is_no_score_is_refused(values: list[object], pairs: int, words: str):
    with pytest.raises(EngineFault, match=words):
        check_raw(values, pairs)


@given(st.lists(finite))
def test_numbers_pass_unchanged(values: list[float]):
    assert check_raw(values, len(values)) == values


@pytest.mark.parametrize(
    ("values", "top_n", "ranking"),
    [
        ([], None, []),
        ([1.0, 3.0, 2.0], None, [1, 2, 0]),
        ([1.0, 3.0, 2.0], 2, [1, 2]),
        ([1.0, 3.0], 9, [1, 0]),
        ([2.0, 5.0, 2.0, 5.0], None, [1, 3, 0, 2]),
    ],
)
def test_rank(values: list[float], top_n: int | None, ranking: list[int]):
    assert rank(values, top_n) == ranking


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0])), st.none() | st.integers(1, 5))
def test_ranking_is_by_value_and_then_by_index(values: list[float], top_n: int | None):
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert rank(values, top_n) == expected[:top_n]


def test_saturated_scores_still_rank_by_their_logits():
    request = RerankRequest(queries=["q"], passages=["a", "b", "c"], is_ranked=True)
    raw = RawScores([50.0, 60.0, 40.0], 9)
    result = build_result(request, raw, score=Score(), model="m", id="x", created=1)
    assert result.scores == [1.0, 1.0, 1.0]
    assert result.ranking == [1, 0, 2]


def test_raw_values_are_given_when_asked_for():
    request = RerankRequest(queries=["q"], passages=["a"], raw=True)
    result = build_result(
        request, RawScores([-3.5], 2), score=Score(), model="m", id="x", created=1
    )
    assert result.scores == [-3.5]


@given(st.lists(st.floats(-80, 80), min_size=1, max_size=30), st.integers(0, 29))
def test_a_score_does_not_depend_on_the_other_passages(logits: list[float], index: int):
    index %= len(logits)

    def scores(values: list[float]) -> list[float]:
        request = RerankRequest(queries=["q"], passages=["p"] * len(values))
        raw = RawScores(values, 0)
        return list(build_result(request, raw, score=Score(), model="", id="", created=0).scores)

    assert scores(logits)[index] == scores([logits[index]])[0]


@pytest.mark.parametrize(
    ("score", "value", "expected"),
    [
        (Score(), 2.0, sigmoid(2.0)),
        (Score("cosine"), 0.5, 0.75),
        (Score("logit", temperature=2.0), 3.0, sigmoid(1.5)),
        (Score("logit", bias=-1.0), 3.0, sigmoid(2.0)),
        (Score("logit", temperature=0.5, bias=1.0), 3.0, sigmoid(7.0)),
        (Score("cosine", temperature=0.1, bias=-5.0), 0.6, sigmoid(1.0)),
        (Score("cosine", bias=0.0), 0.6, sigmoid(0.6)),  # given, so it is calibrated
    ],
)
def test_calibration(score: Score, value: float, expected: float):
    assert score.units([value])[0] == pytest.approx(expected, rel=1e-12)


@given(
    st.sampled_from(["logit", "cosine"]),
    st.floats(1e-3, 1e3),
    st.floats(-50, 50),
    st.lists(st.floats(-1, 1), min_size=1, max_size=9),
)
def test_calibration_keeps_the_order_and_stays_within_0_and_1(
    of: str, temperature: float, bias: float, values: list[float]
):
    request = RerankRequest(queries=["q"], passages=["p"] * len(values))
    raw = RawScores(values, 0)
    score = Score(of, temperature, bias)  # type: ignore[arg-type]
    plain = build_result(request, raw, score=Score(), model="", id="", created=0)
    result = build_result(request, raw, score=score, model="", id="", created=0)
    assert result.ranking == plain.ranking
    ordered = [result.scores[index] for index in result.ranking]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 <= value <= 1 for value in ordered)
    assert result.raw == values


def test_no_cosine_is_calibrated():
    with pytest.raises(EngineFault, match="no cosine"):
        Score("cosine", temperature=2.0).units([7.0])


def test_a_cascades_parts_are_of_the_stage_that_gave_the_score():
    request = RerankRequest(["q"], ["a", "b", "c"], is_ranked=True)
    ours = {0: Chunk(1, 2, 5, 9), 1: Chunk(0, 3, 0, 4), 2: Chunk(2, 3, 8, 12)}
    names = {"model": "m", "id": "x", "created": 1}
    first = build_result(
        request, RawScores([3.0, 2.0, 1.0], 9, cut=[1], chunks=ours), score=Score(), **names
    )
    best = RerankRequest(["q"], ["c", "a"], is_ranked=True)
    then = build_result(
        best,
        RawScores([5.0, 4.0], 6, cut=[0], chunks={0: Chunk(0, 2, 0, 7)}),
        score=Score(),
        **names,
    )
    joined = join_stages(first, then, [2, 0], None)
    assert joined.ranking == [2, 0, 1]
    assert joined.cut == [1, 2]
    assert joined.chunks == {2: Chunk(0, 2, 0, 7), 1: Chunk(0, 3, 0, 4)}  # 0 was read whole


def test_every_text_of_a_request_is_looked_at():
    options = {
        "instruction": "i",
        "chat_template_kwargs": {"k": "v", "list": ["x", {"y": "z"}], "n": 1},
        "user": "u",
    }
    request = RerankRequest(queries=["q"], passages=["a", "b"], options=options)
    assert list(texts_of(request)) == ["q", "a", "b", "i", "v", "x", "z"]
    upper = with_texts(request, {text: text.upper() for text in texts_of(request)})
    assert (upper.queries, upper.passages) == (["Q"], ["A", "B"])
    assert upper.options == {
        "instruction": "I",
        "chat_template_kwargs": {"k": "V", "list": ["X", {"y": "Z"}], "n": 1},
        "user": "u",
    }
