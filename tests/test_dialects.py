"""Dialects as tables: a body becomes this canonical request, a result becomes this body."""

from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import dialects
from serve.dialects import cohere, simple, vllm_score
from serve.dialects.base import Dialect, render_error
from serve.errors import InvalidRequest, Overloaded, RequestError
from serve.rerank import RerankRequest, RerankResult

RESULT = RerankResult(
    id="score-1",
    model="m",
    created=7,
    scores=[0.25, 0.75],
    raw=[-1.5, 2.5],
    ranking=[1, 0],
    prompt_tokens=9,
)


@pytest.mark.parametrize(
    ("dialect", "body", "expected"),
    [
        (
            simple.DIALECT,
            {"query": "q", "passages": ["a", ""]},
            RerankRequest(queries=["q"], passages=["a", ""]),
        ),
        (
            simple.DIALECT,
            {"query": "", "passages": [], "use_llm": True, "model": None, "extra": 1},
            RerankRequest(queries=[""], passages=[], use_llm=True),
        ),
        (
            cohere.V2,
            {"model": "m", "query": "q", "documents": ["a", {"text": "b", "id": 1}], "top_n": 1},
            RerankRequest(
                queries=["q"],
                passages=["a", "b"],
                model="m",
                top_n=1,
                fields=("query", "documents"),
            ),
        ),
        (
            cohere.V1,
            {
                "model": "",
                "query": "q",
                "documents": ["a"],
                "top_n": None,
                "return_documents": "false",
                "max_chunks_per_doc": 1,
                "max_tokens_per_doc": None,
            },
            RerankRequest(queries=["q"], passages=["a"], echo=False, fields=("query", "documents")),
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "top_n": 0, "use_activation": False},
            RerankRequest(queries=["q"], passages=["a"], raw=True, fields=("query", "documents")),
        ),
        (
            vllm_score.DIALECT,
            {"text_1": "q", "text_2": ["a", "b"], "truncate_prompt_tokens": -1},
            RerankRequest(
                queries=["q"],
                passages=["a", "b"],
                fields=("text_1", "text_2"),
                options={"truncate_prompt_tokens": -1},
            ),
        ),
        (
            vllm_score.DIALECT,
            {"queries": ["p", "q"], "documents": ["a", "b"]},
            RerankRequest(queries=["p", "q"], passages=["a", "b"], fields=("queries", "documents")),
        ),
        (
            vllm_score.DIALECT,
            {"queries": "q", "items": "a", "priority": 0, "user": "u", "request_id": "r"},
            RerankRequest(
                queries=["q"],
                passages=["a"],
                fields=("queries", "items"),
                request_id="r",
                options={"priority": 0, "user": "u"},
            ),
        ),
        (
            vllm_score.DIALECT,
            {"data_1": ["q"], "data_2": ["a", "b"], "chat_template_kwargs": {"x": 1}},
            RerankRequest(
                queries=["q"],
                passages=["a", "b"],
                fields=("data_1", "data_2"),
                options={"chat_template_kwargs": {"x": 1}},
            ),
        ),
    ],
)
def test_parse(dialect: Dialect, body: dict[str, object], expected: RerankRequest):
    is_ranked = dialect in (cohere.V1, cohere.V2)
    assert dialect.parse(body) == replace(expected, is_ranked=is_ranked)


@pytest.mark.parametrize(
    ("dialect", "body", "param", "words"),
    [
        (simple.DIALECT, {"passages": []}, "query", "query must be a string"),
        (simple.DIALECT, {"query": None, "passages": []}, "query", "null or missing"),
        (simple.DIALECT, {"query": ["q"], "passages": []}, "query", "it is a list"),
        (simple.DIALECT, {"query": "q", "passages": "a"}, "passages", "must be a list"),
        (simple.DIALECT, {"query": "q", "passages": ["a", 3]}, "passages[1]", "it is a number"),
        (simple.DIALECT, {"query": "q", "passages": ["a", None]}, "passages[1]", "null"),
        (simple.DIALECT, {"query": "q", "passages": [], "use_llm": 1}, "use_llm", "true or false"),
        (simple.DIALECT, {"query": "q", "passages": [], "model": 3}, "model", "a string"),
        (cohere.V2, {"query": "q", "documents": []}, "documents", "is empty"),
        (cohere.V2, {"query": "q", "documents": [{"x": 1}]}, "documents[0]", "an object"),
        (cohere.V2, {"query": "q", "documents": ["a"], "top_n": -1}, "top_n", "whole number"),
        (cohere.V2, {"query": "q", "documents": ["a"], "top_n": True}, "top_n", "whole number"),
        (cohere.V2, {"query": "q", "documents": ["a"], "top_n": 1.5}, "top_n", "whole number"),
        (
            cohere.V1,
            {"query": "q", "documents": ["a"], "max_chunks_per_doc": 3},
            "max_chunks_per_doc",
            "not supported",
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "truncate_prompt_tokens": 0},
            "truncate_prompt_tokens",
            "-1 (the model's length) or at least 1",
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "max_tokens_per_doc": -2},
            "max_tokens_per_doc",
            "0 for no limit",
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "chat_template_kwargs": "x"},
            "chat_template_kwargs",
            "an object",
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs.messages",
            "no variable of a template",
        ),
        (
            simple.DIALECT,
            {
                "query": "q",
                "passages": ["a"],
                "chat_template_kwargs": {"continue_final_message": True},
            },
            "chat_template_kwargs.continue_final_message",
            "no variable of a template",
        ),
        (
            cohere.V2,
            {"query": "q", "documents": ["a"], "chat_template_kwargs": {"instruction": 3}},
            "chat_template_kwargs.instruction",
            "must be a string",
        ),
        (
            vllm_score.DIALECT,
            {"text_1": "q", "text_2": "a", "padding": "max_length"},
            "padding",
            "change the scores",
        ),
        (vllm_score.DIALECT, {"text_1": "q"}, "queries", "text_1 and text_2"),
        (vllm_score.DIALECT, {"text_1": [], "text_2": ["a"]}, "text_1", "is empty"),
        (
            vllm_score.DIALECT,
            {"queries": ["a", "b"], "documents": ["a", "b", "c"]},
            "queries",
            "2 texts and documents 3",
        ),
        (
            vllm_score.DIALECT,
            {"text_1": "q", "text_2": ["a"], "use_activation": "maybe"},
            "use_activation",
            "true or false",
        ),
    ],
)
def test_what_does_not_fit_is_named(dialect: Dialect, body: dict, param: str, words: str):
    with pytest.raises(InvalidRequest) as error:
        dialect.parse(body)
    assert error.value.param == param
    assert words in error.value.message


def test_simple_renders_the_scores_in_the_order_of_the_request():
    assert simple.DIALECT.render(RerankRequest(["q"], ["a", "b"]), RESULT) == [0.25, 0.75]


def test_score_renders_like_vllm():
    assert vllm_score.DIALECT.render(RerankRequest(["q"], ["a", "b"]), RESULT) == {
        "id": "score-1",
        "object": "list",
        "created": 7,
        "model": "m",
        "data": [
            {"index": 0, "object": "score", "score": 0.25, "raw_score": -1.5},
            {"index": 1, "object": "score", "score": 0.75, "raw_score": 2.5},
        ],
        "usage": {
            "prompt_tokens": 9,
            "total_tokens": 9,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


@pytest.mark.parametrize(("dialect", "version"), [(cohere.V1, "1"), (cohere.V2, "2")])
def test_rerank_renders_what_cohere_and_vllm_clients_read(dialect: Dialect, version: str):
    assert dialect.render(RerankRequest(["q"], ["a", "b"]), RESULT) == {
        "id": "score-1",
        "object": "rerank",
        "model": "m",
        "results": [
            {"index": 1, "relevance_score": 0.75, "raw_score": 2.5, "document": {"text": "b"}},
            {"index": 0, "relevance_score": 0.25, "raw_score": -1.5, "document": {"text": "a"}},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": 9},
        },
    }


def test_documents_are_left_out_when_not_wanted():
    body = cohere.V2.render(RerankRequest(["q"], ["a", "b"], echo=False), RESULT)
    assert all("document" not in item for item in body["results"])  # type: ignore[index]


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_search_units(documents: int, units: int):
    body = cohere.V2.render(RerankRequest(["q"], ["a"] * documents), replace(RESULT, ranking=[0]))
    assert body["meta"]["billed_units"]["search_units"] == units  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/rerank", {"query": "q", "passages": []}, "simple"),
        ("/rerank", {"query": "q", "documents": []}, "cohere-v2"),
        ("/v1/rerank", {"query": "q", "documents": []}, "cohere-v1"),
        ("/v1/rerank", {"query": "q", "passages": []}, "simple"),
        ("/rerank", {"query": "q", "passages": [], "documents": None}, "simple"),
        ("/v2/rerank", {"query": "q", "documents": []}, "cohere-v2"),
        ("/score", {"anything": 1}, "vllm-score"),
        ("/v1/score", {}, "vllm-score"),
    ],
)
def test_the_path_and_then_the_body_tell_the_dialect(path: str, body: dict, name: str):
    assert dialects.choose(dialects.by_path()[path], body).name == name


def test_a_body_of_two_dialects_says_so():
    body = {"query": "q", "documents": ["a"], "passages": ["b"]}
    with pytest.raises(InvalidRequest, match="`documents` and `passages`: send one list") as error:
        dialects.choose(dialects.by_path()["/rerank"], body)
    assert error.value.param == "passages"
    assert dialects.choose(dialects.by_path()["/rerank"], {**body, "passages": None}) is cohere.V2


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_body_of_no_dialect_says_what_to_send(path: str):
    with pytest.raises(InvalidRequest, match="`documents`"):
        dialects.choose(dialects.by_path()[path], {"query": "q"})


@pytest.mark.parametrize("dialect", dialects.DIALECTS, ids=lambda dialect: dialect.name)
def test_every_error_says_it_where_clients_look(dialect: Dialect):
    body = dialect.render_error(Overloaded("busy", param="documents", retry_after=3))
    assert body["message"] == body["detail"] == body["error"]["message"] == "busy"  # type: ignore[index]
    assert body["error"]["code"] == 429  # type: ignore[index]
    assert body["error"]["param"] == "documents"  # type: ignore[index]


# -- properties --------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "content", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)
FIELDS = (
    "query queries documents items passages text_1 text_2 data_1 data_2 model top_n top_k use_llm"
    " return_documents use_activation truncate_prompt_tokens max_tokens_per_doc request_id priority"
).split()
GOOD = {"query": "q", "documents": ["a"], "passages": ["a"], "text_1": "q", "text_2": ["a", "b"]}
fields = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6)
bodies = fields | fields.map(lambda given: {**GOOD, **given})  # so that many can be used


@pytest.mark.parametrize("dialect", dialects.DIALECTS, ids=lambda dialect: dialect.name)
@given(body=bodies)
def test_any_body_parses_and_renders_or_is_refused(dialect: Dialect, body: dict[str, object]):
    try:
        request = dialect.parse(body)
    except RequestError as error:
        assert error.status == 400
        assert error.param
        orjson.dumps(render_error(error))
        return
    count = len(request.passages)
    assert len(request.queries) in (1, count)
    ranking = list(range(count))[: request.top_n]
    result = replace(RESULT, scores=[0.5] * count, raw=[0.0] * count, ranking=ranking)
    orjson.dumps(dialect.render(request, result))


texts = st.lists(st.text(max_size=5), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("dialect", "make"),
    [
        (simple.DIALECT, lambda q, ps: {"query": q, "passages": ps}),
        (cohere.V1, lambda q, ps: {"query": q, "documents": [{"text": p} for p in ps]}),
        (cohere.V2, lambda q, ps: {"query": q, "documents": ps}),
        (vllm_score.DIALECT, lambda q, ps: {"text_1": q, "text_2": ps}),
    ],
)
@given(query=st.text(max_size=5), passages=texts)
def test_texts_arrive_unchanged(
    dialect: Dialect, make: Callable[..., dict], query: str, passages: list[str]
):
    request = dialect.parse(make(query, passages))
    assert (list(request.queries), list(request.passages)) == ([query], passages)
