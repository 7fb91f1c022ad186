"""What only some dialects read, and which dialect a body is in."""

from typing import Any

import pytest

from serve import dialects
from serve.dialects import DIALECTS, documents, mixedbread, nim, pinecone, simple, tei, vllm_score
from serve.dialects.base import Body, Dialect
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest
from tests.test_fields import refused

GOOD: dict[str, Any] = {"query": "q", "documents": ["a"]}

# -- what only some dialects have --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "chunks"), [(None, 1), (0, 1), ("", 1), (1, 1), ("10", 10), (3.0, 3)]
)
def test_parts_of_a_document(value: object, chunks: int):
    assert documents.V1.parse({**GOOD, "max_chunks_per_doc": value}).max_chunks == chunks


@pytest.mark.parametrize(
    "value", [None, {}, "", {"mode": "disabled"}, {"mode": "disabled", "x": 1}]
)
def test_spans_that_are_not_wanted(value: object):
    documents.V1.parse({**GOOD, "relevant_spans": value})


@pytest.mark.parametrize("value", [{"mode": "enabled"}, {"mode": None}, True, "disabled", [1]])
def test_spans_are_refused(value: object):
    with pytest.raises(InvalidRequest) as error:
        documents.V1.parse({**GOOD, "relevant_spans": value})
    refused(error, "relevant_spans", "max_chunks_per_doc")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_dialect_passes_over_an_option_of_another(dialect: Dialect):
    def parse(**given: object) -> RerankRequest:
        return dialect.parse({**dialect.doc.example, **given})

    assert parse().may_cut and not parse().raw
    assert not parse(truncation=False).may_cut
    assert not parse(truncate="NONE").may_cut
    assert not parse(truncate=False, truncation=True).may_cut
    assert parse(raw_scores=True).raw
    assert parse(use_activation=False, raw_scores=False).raw
    assert parse(max_chunks_per_doc=3).max_chunks == 3
    for name in ("truncate", "use_activation"):  # read, whatever its other word says
        with pytest.raises(InvalidRequest, match=name):
            parse(truncation=False, raw_scores=True, **{name: {}})
    for name in ("relevant_spans", "rewrite_query"):
        with pytest.raises(InvalidRequest, match="is not offered"):
            parse(**{name: True})


@pytest.mark.parametrize(
    ("dialect", "given", "may_cut"),
    [
        (documents.V1, {"truncation": "false"}, False),
        (documents.V2, {"truncation": True}, True),
        (tei.DIALECT, {"texts": ["a"], "truncate": False}, False),
        (tei.DIALECT, {"texts": ["a"], "truncate": None}, True),
        (nim.OWN_PATHS, {"passages": ["a"], "truncate": "none"}, False),
        (nim.OWN_PATHS, {"passages": ["a"], "truncate": "END"}, True),
        (pinecone.DIALECT, {"parameters": {"truncate": "NONE"}}, False),
        (pinecone.DIALECT, {"parameters": {"truncate": None}}, True),
        (pinecone.DIALECT, {"parameters": None}, True),
    ],
)
def test_texts_that_may_not_be_cut(dialect: Dialect, given: Body, may_cut: bool):
    assert dialect.parse({**GOOD, **given}).may_cut is may_cut


@pytest.mark.parametrize(
    ("dialect", "given", "param", "words"),
    [
        (documents.V1, {"truncation": "START"}, "truncation", "END or NONE"),
        (tei.DIALECT, {"truncate": 2}, "truncate", "END or NONE"),
        (tei.DIALECT, {"raw_scores": 2}, "raw_scores", "true or false"),
        (tei.DIALECT, {"return_text": []}, "return_text", "true or false"),
        (tei.DIALECT, {"truncation_direction": "up"}, "truncation_direction", "left, right"),
        (nim.OWN_PATHS, {"truncate": []}, "truncate", "END or NONE"),
        (pinecone.DIALECT, {"parameters": {"truncate": "X"}}, "truncate", "END or NONE"),
        (pinecone.DIALECT, {"parameters": []}, "parameters", "must be an object"),
        (pinecone.DIALECT, {"parameters": "x"}, "parameters", "must be an object"),
        (mixedbread.DIALECT, {"rewrite_query": "yes"}, "rewrite_query", "is not offered"),
        (mixedbread.DIALECT, {"return_input": 3}, "return_input", "true or false"),
        (mixedbread.DIALECT, {"top_k": "x"}, "top_k", "a whole number"),
        (documents.V1, {"return_documents": "maybe"}, "return_documents", "true or false"),
        (documents.V1, {"documents": {}}, "documents", "must be a list; it is an object"),
        (documents.V1, {"documents": "a"}, "documents", "must be a list; it is a string"),
        (documents.V1, {"documents": []}, "documents", "is empty"),
        (simple.DIALECT, {"passages": {}}, "passages", "must be a list; it is an object"),
        (simple.DIALECT, {"passages": [{"text": "a"}]}, "passages[0]", "send a string."),
        (vllm_score.DIALECT, {"text_1": [], "documents": None, "text_2": "a"}, "text_1", "empty"),
        (vllm_score.DIALECT, {"queries": 3}, "queries", "must be a list; it is a number"),
        (simple.DIALECT, {"query": None, "querry": "q"}, "query", "the body has `querry`"),
        (vllm_score.DIALECT, {"queries": {"x": 1}}, "queries", "must be a string; it is an object"),
    ],
)
def test_what_does_not_fit_is_named(dialect: Dialect, given: Body, param: str, words: str):
    body = {**GOOD, "texts": ["a"], "passages": ["a"], "input": ["a"]}
    with pytest.raises(InvalidRequest) as error:
        dialect.parse({**body, **given})
    refused(error, param, words)


def test_two_pairs_of_sides_are_one_too_many():
    body = {"queries": "q", "documents": ["a"], "text_1": "q", "text_2": "a"}
    with pytest.raises(InvalidRequest, match="`queries` with `documents` and `text_1`") as error:
        vllm_score.DIALECT.parse(body)
    assert error.value.param == "text_2"


def test_parameters_give_what_the_body_has_not():
    parameters = {"model": "m", "use_activation": False}
    parse = pinecone.DIALECT.parse
    assert parse({**GOOD, "model": None, "parameters": parameters}).model == "m"
    assert parse({**GOOD, "model": "n", "parameters": parameters}).model == "n"
    assert parse({**GOOD, "parameters": parameters}).raw


def test_teis_word_for_the_side_that_is_cut():
    body = {"query": "q", "texts": ["a"], "truncation_direction": "Right"}
    assert tei.DIALECT.parse(body).options == {}
    with pytest.raises(InvalidRequest, match="send the end of a long text") as error:
        tei.DIALECT.parse({**body, "truncation_direction": "left"})
    assert error.value.param == "truncation_direction"


def test_tei_has_two_words_for_raw():
    body = {"query": "q", "texts": ["a"]}
    assert tei.DIALECT.parse({**body, "raw_scores": True}).raw
    assert tei.DIALECT.parse({**body, "use_activation": False}).raw
    assert not tei.DIALECT.parse({**body, "raw_scores": False}).raw


# -- which dialect -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/rerank", {"passages": []}, "simple"),
        ("/rerank", {"passages": [], "documents": None, "texts": None}, "simple"),
        ("/rerank", {"passages": [{"text": "a"}]}, "nim"),
        ("/rerank", {"query": {"text": "q"}, "passages": []}, "nim"),
        ("/rerank", {"documents": []}, "vllm-rerank"),
        ("/rerank", {"documents": {}, "top_k": None, "truncation": None}, "vllm-rerank"),
        ("/rerank", {"documents": [], "parameters": None}, "vllm-rerank"),
        ("/rerank", {"documents": [], "parameters": {}}, "pinecone"),
        ("/rerank", {"documents": [], "top_k": 0}, "voyage"),
        ("/rerank", {"documents": [], "truncation": False}, "voyage"),
        ("/rerank", {"texts": []}, "tei"),
        ("/v1/rerank", {"passages": []}, "simple"),
        ("/v1/rerank", {"passages": [{"text": "a"}]}, "nim"),
        ("/v1/rerank", {"documents": []}, "cohere-v1"),
        ("/v1/rerank", {"documents": [], "parameters": {}}, "cohere-v1"),
        ("/v1/rerank", {"documents": [], "top_k": 3}, "voyage"),
        ("/v2/rerank", {"documents": [], "top_k": 3}, "cohere-v2"),
        ("/infinity/rerank", {"documents": []}, "infinity"),
        ("/v1/ranking", {"passages": ["a"]}, "nim"),
        ("/ranking", {"passages": []}, "nim"),
        ("/v1/reranking", {"input": []}, "mixedbread"),
        ("/score", {"anything": 1}, "vllm-score"),
        ("/v1/score", {}, "vllm-score"),
    ],
)
def test_the_path_and_then_the_body_tell_the_dialect(path: str, body: Body, name: str):
    assert dialects.by_path()[path].choose(body, {}).name == name


def test_a_header_tells_pinecones_clients():
    sharing, headers = dialects.by_path()["/rerank"], {"x-pinecone-api-version": ""}
    assert sharing.choose(GOOD, headers) is pinecone.DIALECT
    assert sharing.choose({"texts": ["a"]}, headers) is tei.DIALECT
    assert dialects.by_path()["/v1/rerank"].choose(GOOD, headers) is documents.V1


@pytest.mark.parametrize(
    ("path", "words", "param"),
    [
        ("/rerank", "send `documents` or `passages` or `texts`.", "documents"),
        ("/v1/rerank", "send `documents` or `passages`.", "documents"),
        ("/v2/rerank", "send `documents`.", "documents"),
        ("/v1/reranking", "send `input`.", "input"),
        ("/v1/ranking", "send `passages`.", "passages"),
    ],
)
def test_a_body_of_no_dialect_says_what_to_send(path: str, words: str, param: str):
    for body in ({}, {"query": "q"}, {"query": "q", param: None}):
        with pytest.raises(InvalidRequest) as error:
            dialects.by_path()[path].choose(body, {})
        assert error.value.message.endswith(words)
        assert error.value.param == param
