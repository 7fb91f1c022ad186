"""Which engine and which model a request goes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import InvalidRequest, NotFound, TooLarge, Unavailable
from serve.pool import Pool, Replica, check_size, choose, pick
from serve.rerank import RerankRequest
from serve.spec import Limits, Model
from serve.vllm_log import Progress


def replica(phase: str, pairs: int = 0) -> Replica:
    return Replica(engine=None, progress=Progress(phase), pairs=pairs)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["ready", "loading", "dead"]), st.integers(0, 9))))
def test_pick_takes_the_ready_one_with_the_least_to_do(states: list[tuple[str, int]]):
    replicas = [replica(*state) for state in states]
    loads = [pairs for phase, pairs in states if phase == "ready"]
    if not loads:
        with pytest.raises(Unavailable):
            pick(replicas)
        return
    picked = pick(replicas)
    assert picked.is_ready and picked.pairs == min(loads)


POOLS = [
    Pool(Model(model="a/b", names=("m3", "BAAI/m3")), []),
    Pool(Model(model="a/c", names=("gemma",), llm=True), []),
]


@pytest.mark.parametrize(
    ("model", "use_llm", "name"),
    [
        (None, False, "m3"),
        ("", False, "m3"),
        ("baai/M3", False, "m3"),
        ("gemma", False, "gemma"),
        (None, True, "gemma"),
        ("gemma", True, "gemma"),
    ],
)
def test_choose(model: str | None, use_llm: bool, name: str):
    assert choose(POOLS, model=model, use_llm=use_llm).model.name == name


def test_choose_nothing():
    with pytest.raises(NotFound, match="served: m3, BAAI/m3, gemma"):
        choose(POOLS, model="other", use_llm=False)
    with pytest.raises(InvalidRequest, match="'m3' is no LLM reranker"):
        choose(POOLS, model="m3", use_llm=True)
    with pytest.raises(InvalidRequest, match="make serve MODEL=bge-reranker-v2-gemma"):
        choose(POOLS[:1], model=None, use_llm=True)


@pytest.mark.parametrize(
    ("queries", "passages", "param"),
    [
        (["q"], ["a"] * 4, "documents"),
        (["q"], ["a", "bbbb"], "documents[1]"),
        (["a", "qqqq"], ["a", "b"], "text_1[1]"),
    ],
)
def test_size(queries: list[str], passages: list[str], param: str):
    request = RerankRequest(queries, passages, fields=("text_1", "documents"))
    with pytest.raises(TooLarge) as error:
        check_size(request, Limits(passages=3, text_chars=3))
    assert error.value.param == param
    check_size(request, Limits(passages=4, text_chars=4))
