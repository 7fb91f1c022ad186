"""The engine's client: what it sends, and that no foreign exception gets through."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from serve.engine import decode, encode, error_of, mapped_errors
from serve.engine import options as options_of
from serve.errors import (
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    RequestError,
    Unavailable,
)
from serve.rerank import RerankRequest, Score
from serve.spec import Model

ENCODER = Model(model="a/b", names=("m",), vllm={"max-model-len": 512})
LLM = Model(
    model="a/b",
    names=("m",),
    llm=True,
    request={"max_tokens_per_query": 100, "max_tokens_per_doc": 300},
    vllm={"max-model-len": 512, "chat-template": "{{x}}"},
)


def sent(model: Model, **options: object) -> dict[str, object]:
    request = RerankRequest(queries=["q"], passages=["a", "b"], options=options)
    body = orjson.loads(
        encode(request._replace(options=options_of(request, model, model.max_model_len)))
    )
    assert body.pop("queries") == "q"
    assert body.pop("documents") == ["a", "b"]
    assert body.pop("use_activation") is False
    return body


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (ENCODER, {}, {"truncate_prompt_tokens": -1}),
        (ENCODER, {"truncate_prompt_tokens": 9}, {"truncate_prompt_tokens": 9}),
        (
            replace(ENCODER, request={"max_tokens_per_doc": 100}),
            {"max_tokens_per_doc": 200},
            {"max_tokens_per_doc": 200},
        ),
        (ENCODER, {"user": "u"}, {"truncate_prompt_tokens": -1, "user": "u"}),
        (
            ENCODER,
            {"max_tokens_per_doc": 511},
            {"truncate_prompt_tokens": -1, "max_tokens_per_doc": 511},
        ),
        (
            ENCODER,
            {"max_tokens_per_doc": 4096},
            {"truncate_prompt_tokens": -1, "max_tokens_per_doc": 0},
        ),
        (ENCODER, {"truncate_prompt_tokens": 4096}, {"truncate_prompt_tokens": -1}),
        (
            replace(ENCODER, vllm={}),  # whose length is not known
            {"truncate_prompt_tokens": 4096},
            {"truncate_prompt_tokens": 4096},
        ),
        (LLM, {}, {"max_tokens_per_query": 100, "max_tokens_per_doc": 300}),
        (
            LLM,
            {"max_tokens_per_doc": 4096, "max_tokens_per_query": 7},
            {"max_tokens_per_query": 7, "max_tokens_per_doc": 300},
        ),
        (
            LLM,
            {"truncate_prompt_tokens": -1},
            {"max_tokens_per_query": 100, "max_tokens_per_doc": 300},
        ),
    ],
)
def test_options(model: Model, options: dict[str, object], expected: dict[str, object]):
    assert sent(model, **options) == expected


def test_an_instruction_that_nobody_reads_is_refused():
    with pytest.raises(InvalidRequest, match="no prompt that reads it") as error:
        sent(ENCODER, instruction="Find fruit")
    assert error.value.param == "instruction"
    assert sent(LLM, instruction="Find fruit")["instruction"] == "Find fruit"


def test_an_llm_rerankers_prompt_is_never_cut_as_a_whole():
    with pytest.raises(InvalidRequest, match="cut this model's instruction"):
        sent(LLM, truncate_prompt_tokens=100)


def test_an_llm_rerankers_limits_cannot_be_switched_off():
    assert sent(LLM, max_tokens_per_doc=0)["max_tokens_per_doc"] == 300


@pytest.mark.parametrize(
    ("query", "asked", "expected"),
    [
        ("q", {}, None),
        ("q" * 2000, {}, None),  # without a limit of the passage vLLM cuts the longer text
        ("q", {"max_tokens_per_doc": 100}, None),
        ("q" * 2000, {"max_tokens_per_doc": 100}, 376),
        ("q" * 2000, {"max_tokens_per_doc": 100, "truncate_prompt_tokens": 100}, 67),
        ("q" * 2000, {"max_tokens_per_doc": 100, "max_tokens_per_query": 50}, 50),
        ("q" * 2000, {"max_tokens_per_doc": 100, "max_tokens_per_query": 500}, 376),
        ("q" * 2000, {"max_tokens_per_doc": 4096}, None),
    ],
)
def test_a_long_query_leaves_room_for_a_limited_passage(
    query: str, asked: dict[str, object], expected: int | None
):
    request = RerankRequest([query], ["a"], options=asked)
    fields = options_of(request, ENCODER, 512)
    assert fields.get("max_tokens_per_query") == expected
    single = replace(ENCODER, score=Score("cosine"))  # whose texts stand by themselves
    if "max_tokens_per_query" not in asked:
        assert "max_tokens_per_query" not in options_of(request, single, 512)


@pytest.mark.parametrize("model", [ENCODER, LLM], ids=["encoder", "llm"])
def test_the_engine_refuses_what_may_not_be_cut_where_nobody_else_can_tell(model: Model):
    request = RerankRequest(["q"], ["a"], options={"max_tokens_per_doc": 9, "user": "u"})
    assert options_of(request, model, 512, may_cut=False) == {"user": "u"}


def test_pairs_keep_their_own_queries():
    request = RerankRequest(queries=["p", "q"], passages=["a", "b"])
    assert orjson.loads(encode(request))["queries"] == ["p", "q"]


def test_decode():
    body = b'{"data": [{"score": 1.5}, {"score": -2}], "usage": {"prompt_tokens": 4}}'
    raw = decode(body, 2)
    assert (raw.values, raw.prompt_tokens) == ([1.5, -2.0], 4)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": 3, "usage": {"prompt_tokens": 1}}',
        b'{"data": [3], "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"score": NaN}], "usage": {"prompt_tokens": 1}}',
        b'{"data": [{"score": 1}], "usage": {}}',
        b'{"data": [{"score": 1}], "usage": {"prompt_tokens": "x"}}',
        b'{"data": [{"score": "1"}], "usage": {"prompt_tokens": 1}}',
        b'{"data": [], "usage": {"prompt_tokens": 1}}',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_no_list_of_scores(body: bytes):
    with pytest.raises(EngineFault):
        decode(body, 1)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b'{"error": {"message": "too long"}}', InvalidRequest, "too long"),
        (422, b'{"detail": "what"}', InvalidRequest, "what"),
        (404, b'{"error": "gone"}', InvalidRequest, "gone"),
        (503, b"", Unavailable, "too busy"),
        (500, b'{"error": {"message": ""}}', Unavailable, "status 500"),
        (500, b"Internal", Unavailable, "(no message)"),
        (302, b"[1]", Unavailable, "(no message)"),
    ],
)
def test_the_engines_own_errors(status: int, body: bytes, kind: type[RequestError], words: str):
    error = error_of(status, body)
    assert type(error) is kind
    assert words in error.message


def foreign_exceptions() -> list[type[Exception]]:
    """Every exception class that the parser exports, and what sockets and timers raise."""
    from httptools.parser import errors

    parser = [getattr(errors, name) for name in errors.__all__ if name != "HttpParserUpgrade"]
    assert len(parser) > 3
    # Upgrades and URLs are for servers' parsers; a response's raises the others.
    parser = [kind for kind in parser if issubclass(kind, errors.HttpParserError)]
    sockets = [ConnectionRefusedError, ConnectionResetError, BrokenPipeError, FileNotFoundError]
    return [*parser, *sockets, OSError, TimeoutError, asyncio.TimeoutError]


@pytest.mark.parametrize("kind", foreign_exceptions(), ids=lambda kind: kind.__name__)
def test_every_foreign_exception_is_mapped(kind: type[Exception]):
    with pytest.raises(RequestError) as mapped, mapped_errors():
        raise kind("x")
    expected = DeadlineExceeded if issubclass(kind, TimeoutError) else (Unavailable, EngineFault)
    assert isinstance(mapped.value, expected)


def test_our_own_exceptions_pass_through():
    with pytest.raises(InvalidRequest), mapped_errors():
        raise InvalidRequest("x")
