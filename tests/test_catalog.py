"""Who answers a request, and what a cascade makes of two models."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import status
from serve.catalog import Catalog
from serve.errors import InvalidRequest, NotFound, Overloaded
from serve.pool import Pool
from serve.rerank import RawScores, RerankRequest, Score, build_result, join_stages, rank
from serve.spec import Model
from serve.stack import Cascade, Stack

M3 = Model(model="a/b", names=("m3", "BAAI/m3"))
GEMMA = Model(model="a/c", names=("gemma",), llm=True)
PLAIN = Model(model="a/d", names=("plain",))
STACK = Stack([M3, GEMMA, PLAIN], "m3", "gemma", {"both": Cascade("m3", "gemma", 2)})


def catalog(stack: Stack) -> Catalog:
    return Catalog(stack, [Pool(model, []) for model in stack.models])


@pytest.mark.parametrize(
    ("model", "use_llm", "name"),
    [
        (None, False, "m3"),
        ("", False, "m3"),
        ("baai/M3", False, "m3"),
        ("gemma", False, "gemma"),
        ("BOTH", False, "both"),
        (None, True, "gemma"),
        ("gemma", True, "gemma"),
        ("default", False, "m3"),
        ("default/not-specified", False, "m3"),
        ("default/not-specified", True, "gemma"),
    ],
)
def test_choose(model: str | None, use_llm: bool, name: str):
    assert catalog(STACK).choose(model=model, use_llm=use_llm).name == name


def test_choose_nothing():
    with pytest.raises(NotFound, match="served: m3, BAAI/m3, gemma, plain, both"):
        catalog(STACK).choose(model="other", use_llm=False)
    for other in ("m3", "both"):
        with pytest.raises(InvalidRequest, match=f"'{other}' is no LLM reranker"):
            catalog(STACK).choose(model=other, use_llm=True)
    with pytest.raises(InvalidRequest, match="make serve MODEL=rerank-server"):
        catalog(Stack.of(M3)).choose(model=None, use_llm=True)


def test_an_unknown_name_may_mean_the_default():
    lenient = catalog(replace(STACK, unknown_model="default"))
    assert lenient.choose(model="gpt-4", use_llm=False).name == "m3"
    assert lenient.choose(model="gpt-4", use_llm=True).name == "gemma"
    assert lenient.choose(model="gemma", use_llm=False).name == "gemma"
    assert lenient.name_of(lenient.default, "gpt-4") == "m3"
    assert lenient.name_of(lenient.default, "BAAI/m3") == "BAAI/m3"


def test_a_model_may_be_called_default():
    named = Model(model="a/e", names=("default",))
    found = catalog(Stack([M3, named], "m3", None, {}))
    assert found.choose(model="default", use_llm=False).name == "default"
    assert found.choose(model="default/not-specified", use_llm=False).name == "m3"
    assert found.choose(model=None, use_llm=False).name == "m3"


@pytest.mark.parametrize("asked", [None, "", "default", "default/not-specified", "gpt-4"])
def test_an_answer_never_has_a_name_that_is_nobodys(asked: str | None):
    found = catalog(replace(STACK, unknown_model="default"))
    assert found.name_of(found.choose(model=asked, use_llm=False), asked) == "m3"


def test_what_is_told_of_one_model():
    found = catalog(STACK)
    told = status.model(found, "baai/M3", created=7)
    assert (told["id"], told["root"], told["model_type"]) == ("baai/M3", "m3", "rerank")
    assert told["default"] and not told["llm"]
    assert status.model(found, "gemma", created=7)["llm"]
    both = status.model(found, "both", created=7)
    assert both["cascade"] == {"first": "m3", "then": "gemma", "keep": 2}
    with pytest.raises(NotFound, match="served: m3"):
        status.model(found, "gpt-4", created=7)
    lenient = catalog(replace(STACK, unknown_model="default"))
    assert status.model(lenient, "gpt-4", created=7)["id"] == "m3"
    listed = status.models(found, created=7)["data"]
    assert listed == [status.model(found, name, created=7) for name in found.names]


def test_info_is_of_the_default_or_of_a_cascades_first():
    for default, name in (("m3", "m3"), ("gemma", "gemma"), ("both", "both")):
        told = status.info(catalog(replace(STACK, default=default)))
        assert told["model_id"] == name
        assert list(told["model_type"]) == ["reranker"]
        assert told["max_client_batch_size"] == M3.limits.passages


def test_the_configuration_says_which_model_is_the_llm():
    other = catalog(replace(STACK, llm="plain"))
    assert other.choose(model=None, use_llm=True).name == "plain"
    assert other.choose(model="plain", use_llm=True).name == "plain"
    assert other.choose(model="gemma", use_llm=True).name == "gemma"


def test_the_default_may_be_a_cascade():
    assert catalog(replace(STACK, default="both")).choose(model=None, use_llm=False).name == "both"


# -- cascades ----------------------------------------------------------------------------------


class FixedPool(Pool):
    """Gives each passage the value that stands in it."""

    def __init__(self, model: Model, sign: float) -> None:
        super().__init__(model, [])
        self.sign = sign
        self.seen: Sequence[str] = []

    def check(self, request: RerankRequest, most: int | None = None) -> RerankRequest:
        return request

    async def score(self, request: RerankRequest, *_: object) -> RawScores:
        self.seen = request.passages
        values = [self.sign * float(text) for text in request.passages]
        cut = [index for index, text in enumerate(request.passages) if text == "5"]
        return RawScores(values, 10 * len(values), cut)


REQUEST = RerankRequest(["q"], ["1", "5", "3", "4", "2"], is_ranked=True)


def both(request: RerankRequest, keep: int = 2):
    first, then = FixedPool(M3, 1.0), FixedPool(GEMMA, -1.0)
    stack = Stack([M3, GEMMA], "m3", "gemma", {"both": Cascade("m3", "gemma", keep)})
    served = Catalog(stack, [first, then]).choose(model="both", use_llm=False)
    return asyncio.run(served.rerank(request, model="both", id="x", created=1)), first, then


def test_a_cascade_scores_the_best_again():
    result, first, then = both(REQUEST)
    assert (first.seen, then.seen) == (REQUEST.passages, ["5", "4"])
    assert result.ranking == [3, 1, 2, 4, 0]  # -4 before -5 by the second, then 3, 2, 1
    assert result.raw == [1, -5, 3, -4, 2]
    assert result.stages.first == [1, 5, 3, 4, 2]
    assert result.stages.then == {1: -5, 3: -4}
    assert result.scores == Score().units(result.raw)
    assert result.prompt_tokens == 70
    assert result.cut == [1]


def test_a_cascade_that_the_second_model_has_no_room_for_costs_the_first_nothing():
    first, then = FixedPool(M3, 1.0), FixedPool(GEMMA, -1.0)
    stack = Stack([M3, GEMMA], "m3", "gemma", {"both": Cascade("m3", "gemma", 2)})
    served = Catalog(stack, [first, then]).choose(model="both", use_llm=False)
    then.admission.count(GEMMA.limits.pairs_in_flight, 0, 0)
    then.admission.requests = 1
    with pytest.raises(Overloaded):
        asyncio.run(served.rerank(REQUEST, model="both", id="x", created=1))
    assert first.seen == [] and then.admission.requests == 1


def test_a_cascade_of_fewer_passages_than_it_keeps():
    result, _, then = both(REQUEST, keep=9)
    assert len(then.seen) == 5
    assert result.ranking == [0, 4, 2, 3, 1]


def test_a_cascades_top_n_is_cut_at_the_end():
    result, first, _ = both(REQUEST._replace(top_n=3))
    assert len(first.seen) == 5
    assert result.ranking == [3, 1, 2]


def test_a_cascade_gives_no_plain_scores():
    with pytest.raises(InvalidRequest, match="POST `documents` to /v2/rerank") as error:
        both(REQUEST._replace(is_ranked=False))
    assert error.value.param == "model"


@given(
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=1, max_size=9),
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=9, max_size=9),
    st.integers(1, 9),
    st.none() | st.integers(1, 9),
)
def test_kept_before_the_rest_and_each_in_the_order_of_its_model(
    first: list[float], second: list[float], keep: int, top_n: int | None
):
    kept = rank(first, keep)
    request = RerankRequest(["q"], ["p"] * len(first), is_ranked=True)

    def result(values: list[float]):
        raw = RawScores(values, 0)
        return build_result(request, raw, score=Score(), model="", id="", created=0)

    joined = join_stages(result(first), result([second[i] for i in kept]), kept, None)
    order = list(joined.ranking)
    assert sorted(order) == list(range(len(first)))
    head, tail = order[: len(kept)], order[len(kept) :]
    assert sorted(head) == sorted(kept)
    assert head == sorted(head, key=lambda i: (-second[i], kept.index(i)))
    assert tail == [i for i in rank(first, None) if i not in kept]
    assert all(joined.raw[i] == (second[i] if i in kept else first[i]) for i in order)
    cut = join_stages(result(first), result([second[i] for i in kept]), kept, top_n)
    assert list(cut.ranking) == order[:top_n]
