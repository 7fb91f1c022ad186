"""What holds of any body in any dialect."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import dialects
from serve.dialects import documents, mixedbread, nim, pinecone, simple, tei, vllm_score, voyage
from serve.dialects.base import Body, Dialect
from serve.errors import InvalidRequest
from serve.rerank import Chunk, RawScores, RerankRequest, Score, build_result
from tests.bodies import ASKING

ASKED = {asking.dialect: asking for asking in ASKING}
TEXTS = ("documents", "texts", "passages", "input")


def good(dialect: Dialect) -> Body:
    """A body that the dialect takes."""
    return ASKED[dialect.name].make("q", ["a", "b"])


# Every field that any dialect reads: that they are all told is tested in `test_openapi.py`.
READ = sorted({name for dialect in dialects.DIALECTS for name in dialect.doc.fields})

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "true", "false", "5", "-1", " 2 ", "END", "none", "Left", "disabled"])
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "content", "x", "mode"]), inner, max_size=2)
    ),
    max_leaves=6,
)
holders = st.text(max_size=4) | st.builds(
    lambda name, text: {name: text}, st.sampled_from(["text", "content"]), st.text(max_size=4)
)
values = json_values | st.lists(holders, min_size=1, max_size=4)
counts = st.sampled_from([0, 1, 2, 3, 99, "2", "", 1.0, 10**30])
flags = st.booleans() | st.sampled_from(["true", "False", 0, 1, ""])
listed = st.lists(holders, min_size=1, max_size=5)
usual = st.fixed_dictionaries(  # so that many bodies are taken
    {},
    optional={
        **dict.fromkeys(TEXTS, listed),
        **dict.fromkeys(("top_n", "top_k", "max_chunks_per_doc", "max_tokens_per_doc"), counts),
        **dict.fromkeys(("return_documents", "return_text", "return_input", "raw_scores"), flags),
        **dict.fromkeys(("use_activation", "use_llm", "truncation"), flags),
        "model": st.text(max_size=4),
        "rank_fields": st.lists(st.sampled_from(["text", "content", "x"]), max_size=2),
        "truncate_prompt_tokens": st.sampled_from([-1, "-1", 5]),
    },
)
overlays = st.dictionaries(st.sampled_from(READ), values, max_size=4) | usual
every_dialect = pytest.mark.parametrize(
    "dialect", dialects.DIALECTS, ids=lambda dialect: f"{dialect.name}{dialect.paths[0]}"
)


def outcome(dialect: Dialect, body: Body) -> RerankRequest | tuple[str, str | None]:
    """What a body comes to: a request, or an error's words and field."""
    try:
        return dialect.parse(body)
    except InvalidRequest as error:
        return error.message, error.param


@every_dialect
@given(overlay=overlays)
def test_any_body_is_parsed_or_refused_with_its_field(dialect: Dialect, overlay: Body):
    body = orjson.loads(json.dumps({**good(dialect), **overlay}))  # as it would come by wire
    try:
        request = dialect.parse(body)
    except InvalidRequest as error:
        assert error.status == 400
        assert error.param and error.param.split("[")[0].split(".")[0] in READ
        assert error.message.strip().endswith(".")
        told = orjson.loads(orjson.dumps(dialect.render_error(error, "r")))
        assert told["message"] == told["detail"] == error.message
        inner = told["error"]
        assert error.message == (inner if dialect is tei.DIALECT else inner["message"])
        return
    assert len(request.queries) in (1, len(request.passages))
    assert all(type(text) is str for text in [*request.queries, *request.passages])
    assert request.top_n is None or request.top_n >= 1
    assert request.max_chunks >= 1
    assert None not in request.options.values()
    orjson.dumps(dict(request.options))


scores = st.sampled_from(
    [Score(), Score("cosine"), Score(temperature=1.7, bias=-0.3), Score("cosine", 0.05)]
)


@every_dialect
@given(overlay=overlays, score=scores, data=st.data())
def test_any_answer_is_an_ordered_choice_of_its_passages(
    dialect: Dialect, overlay: Body, score: Score, data: st.DataObject
):
    try:
        request = dialect.parse({**good(dialect), **overlay})
    except InvalidRequest:
        return
    count = len(request.passages)
    most = 1.0 if score.of == "cosine" else 1e308
    tied = st.floats(-most, most) | st.sampled_from([-0.5, 0.0, 0.5])
    raw = data.draw(st.lists(tied, min_size=count, max_size=count))
    places = data.draw(st.sets(st.integers(0, count - 1), max_size=3)) if count else set()
    chunks = {place: Chunk(0, 2, 0, 1) for place in places}
    found = RawScores(raw, 9, cut=sorted(places), chunks=chunks)
    result = build_result(request, found, score=score, model="m", id="i", created=7)
    answer = orjson.loads(orjson.dumps(dialect.render(request, result)))
    ranked = ASKED[dialect.name].read(answer)
    indices, given = list(ranked), list(ranked.values())
    if not request.is_ranked:
        assert indices == list(range(count))
    else:
        assert len(indices) == min(request.top_n or count, count)
        assert len(set(indices)) == len(indices) and set(indices) <= set(range(count))
        assert indices == sorted(range(count), key=lambda i: (-raw[i], i))[: len(indices)]
        assert given == sorted(given, reverse=True)
    if ASKED[dialect.name].is_raw or request.raw:
        assert given == [raw[index] for index in indices]
    else:
        assert all(0 <= value <= 1 for value in given)
        assert given == [score.units([raw[index]])[0] for index in indices]


@every_dialect
@given(overlay=overlays, data=st.data())
def test_a_null_is_the_same_as_nothing(dialect: Dialect, overlay: Body, data: st.DataObject):
    nulls = data.draw(st.sets(st.sampled_from(READ), max_size=5))
    body = {**good(dialect), **overlay, **dict.fromkeys(nulls)}
    without = {name: value for name, value in body.items() if value is not None}
    assert outcome(dialect, body) == outcome(dialect, without)
    assert dialect.is_meant(body, {}) == dialect.is_meant(without, {})


@every_dialect
@pytest.mark.parametrize("name", READ)
def test_every_field_may_be_null(dialect: Dialect, name: str):
    body = {**good(dialect), name: None}
    without = {key: value for key, value in body.items() if value is not None}
    assert outcome(dialect, body) == outcome(dialect, without)
    assert dialect.is_meant(body, {}) == dialect.is_meant(without, {})


unknown = st.dictionaries(st.text(max_size=6).map("x-".__add__), values, max_size=4)


@every_dialect
@given(overlay=overlays, extra=unknown, headers=st.dictionaries(st.text(max_size=6), st.text()))
def test_fields_that_nobody_knows_do_not_matter(
    dialect: Dialect, overlay: Body, extra: Body, headers: Mapping[str, str]
):
    body = {**good(dialect), **overlay}
    assert outcome(dialect, {**extra, **body}) == outcome(dialect, body)
    assert dialect.is_meant({**extra, **body}, headers) == dialect.is_meant(body, {})


@given(
    path=st.sampled_from(sorted(dialects.by_path())),
    body=overlays | st.sampled_from(TEXTS).flatmap(lambda n: overlays.map(lambda o: {**o, n: []})),
    headers=st.sampled_from([{}, {"x-pinecone-api-version": "2025-01"}]),
)
def test_a_body_is_in_one_dialect_or_refused(path: str, body: Body, headers: Mapping[str, str]):
    sharing = dialects.by_path()[path]
    given = [name for name in TEXTS if body.get(name) is not None]
    meant = [dialect for dialect in sharing if not dialect.texts or dialect.texts in given]
    try:
        chosen = sharing.choose(body, headers)
    except InvalidRequest as error:
        assert error.param in {dialect.texts for dialect in sharing}
        assert len({dialect.texts for dialect in meant}) != 1
        return
    assert chosen in meant and chosen.is_meant(body, headers)
    assert path in chosen.paths


passages = st.lists(st.text(max_size=9), min_size=1, max_size=5)


def as_objects(texts: list[str], name: str = "text") -> list[dict[str, str]]:
    return [{name: text} for text in texts]


MAKERS = [
    (simple.DIALECT, lambda q, ps: {"query": q, "passages": ps}),
    (documents.V1, lambda q, ps: {"query": q, "documents": as_objects(ps)}),
    (documents.V2, lambda q, ps: {"query": q, "documents": ps}),
    (documents.VLLM, lambda q, ps: {"query": q, "documents": as_objects(ps, "content")}),
    (
        documents.VLLM,
        lambda q, ps: {"query": q, "documents": as_objects(ps, "t"), "rank_fields": ["no", "t"]},
    ),
    (
        documents.VLLM,
        lambda q, ps: {"query": q, "documents": [{"content": as_objects([p])} for p in ps]},
    ),
    (voyage.DIALECT, lambda q, ps: {"query": q, "documents": ps, "return_documents": True}),
    (tei.DIALECT, lambda q, ps: {"query": q, "texts": ps, "return_text": True}),
    (nim.OWN_PATHS, lambda q, ps: {"query": {"text": q}, "passages": as_objects(ps)}),
    (pinecone.DIALECT, lambda q, ps: {"query": q, "documents": as_objects(ps)}),
    (mixedbread.DIALECT, lambda q, ps: {"query": q, "input": ps, "return_input": True}),
    (vllm_score.DIALECT, lambda q, ps: {"text_1": q, "text_2": ps}),
    (vllm_score.DIALECT, lambda q, ps: {"queries": [q], "documents": as_objects(ps)}),
]


@pytest.mark.parametrize(("dialect", "make"), MAKERS, ids=lambda value: getattr(value, "name", ""))
@given(query=st.text(max_size=9), texts=passages)
def test_texts_arrive_unchanged_and_come_back(
    dialect: Dialect, make: Any, query: str, texts: list[str]
):
    request = dialect.parse(orjson.loads(orjson.dumps(make(query, texts))))
    assert (list(request.queries), list(request.passages)) == ([query], texts)
    raw = RawScores([0.0] * len(texts), 0)
    result = build_result(request, raw, score=Score(), model="m", id="i", created=7)
    told = orjson.loads(orjson.dumps(dialect.render(request, result)))
    assert [text for text in echoed(dialect, told) if text is not None] in ([], texts)
    if dialect.name not in ("simple", "nim", "vllm-score"):
        assert len(echoed(dialect, told)) == len(texts)


def echoed(dialect: Dialect, answer: Any) -> list[str | None]:
    """The texts in an answer, where a dialect's clients read them."""
    match dialect.name:
        case "simple" | "nim" | "vllm-score":
            return []
        case "tei":
            return [item["text"] for item in answer]
        case "voyage":
            return [item["document"] for item in answer["data"]]
        case "mixedbread":
            return [item["input"] for item in answer["data"]]
        case "pinecone":
            return [item["document"]["text"] for item in answer["data"]]
    return [item["document"]["text"] for item in answer["results"]]
