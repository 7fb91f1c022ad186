"""Which engine a request goes to, and what is too large."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import TooLarge, Unavailable
from serve.pool import Replica, check_size, pick
from serve.rerank import RerankRequest
from serve.spec import Limits
from serve.vllm_log import Progress


def replica(phase: str, pairs: int = 0) -> Replica:
    return Replica(engine=None, progress=Progress(phase), pairs=pairs)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["ready", "loading", "dead"]), st.integers(0, 9))))
def test_pick_takes_the_ready_one_with_the_least_to_do(states: list[tuple[str, int]]):
    replicas = [replica(*state) for state in states]
    loads = [pairs for phase, pairs in states if phase == "ready"]
    if not loads:
        with pytest.raises(Unavailable):
            pick("m", replicas)
        return
    picked = pick("m", replicas)
    assert picked.is_ready and picked.pairs == min(loads)


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
