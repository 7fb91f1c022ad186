"""Rerank bodies with `documents`: those of Cohere v1 and v2, Jina, vLLM, Infinity and LiteLLM.

They ask alike, and one answer that holds what each of them reads serves them all. `document` is in
the answer unless `return_documents` is false, as vLLM does it and clients of it rely on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc
from serve.dialects.fields import boolean, count, documents, text
from serve.dialects.options import common
from serve.rerank import RerankRequest, RerankResult

PLACES_NAMED = 20  # in a warning
DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere's billing unit: one query with up to so many documents


def parse(body: Body) -> RerankRequest:
    passages, originals = documents(body, "documents")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        originals=originals,
        fields=("query", "documents"),
        top_n=count(body, "top_n", "top_k"),
        is_ranked=True,
        echo=boolean(body, "return_documents", default=True),
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult, *, version: str) -> dict[str, object]:
    units = -(-len(request.passages) // DOCUMENTS_PER_SEARCH_UNIT)
    notes = list(_warnings(request, result))
    return {
        "id": result.id,
        "object": "rerank",
        "model": result.model,
        "results": items(request, result),
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": units},
            "tokens": {"input_tokens": result.prompt_tokens, "output_tokens": 0},
            **({"warnings": notes} if notes else {}),
        },
    }


def render_v1(request: RerankRequest, result: RerankResult) -> dict[str, object]:
    """With Voyage's `data` too: its clients come to this path, and not all send what tells."""
    return {**render(request, result, version="1"), "data": data(result)}


def data(result: RerankResult) -> list[dict[str, object]]:
    """The results as Voyage's clients read them, without documents."""
    scores = result.scores
    return [{"index": index, "relevance_score": scores[index]} for index in result.ranking]


def items(request: RerankRequest, result: RerankResult) -> list[dict[str, object]]:
    """The results, best first: scores and the raw values behind them; the part of a document that
    won, if it was split; of a cascade, also who gave them."""
    scores, raw = result.scores, result.raw
    ranked: list[dict[str, object]] = [
        {"index": index, "relevance_score": scores[index], "raw_score": raw[index]}
        for index in result.ranking
    ]
    if stages := result.stages:
        for item, index in zip(ranked, result.ranking, strict=True):
            item["stage"] = stages.of(index)
            item["raw_scores"] = {"first": stages.first[index], "then": stages.then.get(index)}
    if chunks := result.chunks:
        for item, index in zip(ranked, result.ranking, strict=True):
            if index in chunks:
                item["chunk"] = asdict(chunks[index])
    if request.echo:
        for item, index in zip(ranked, result.ranking, strict=True):
            item["document"] = document(request, index)
    return ranked


def document(request: RerankRequest, index: int) -> dict[str, object]:
    """A passage as the object that it came in, in any case with a `text` that is a string."""
    original = request.originals[index] if request.originals else None
    text = request.passages[index]
    if not isinstance(original, Mapping):
        return {"text": text}
    given = original.get("text")
    return {**original, "text": given if isinstance(given, str) else text}


def _warnings(request: RerankRequest, result: RerankResult) -> Iterator[str]:
    """What a reader of the scores should know."""
    field = request.fields[1]
    if result.cut:
        places = ", ".join(f"{field}[{index}]" for index in result.cut[:PLACES_NAMED])
        more = len(result.cut) - PLACES_NAMED
        others = f" and {more} more" if more > 0 else ""
        yield f"too long with the query, so not read whole: {places}{others}"
    if result.stages:
        yield "a cascade of two models: relevance_score compares within a stage only"


FIELDS: Mapping[str, schemas.Schema] = {
    "query": schemas.QUERY,
    "documents": schemas.DOCUMENTS,
    "top_n": schemas.TOP_N,
    "top_k": schemas.TOP_K,
    "return_documents": schemas.echo(True),
    "rank_fields": schemas.RANK_FIELDS,
    **schemas.COMMON,
}
_STAGE = schemas.typed("string", "Of a cascade: which model scored it.", enum=["first", "then"])
_BOTH = schemas.obj(
    {"first": schemas.RAW_SCORE, "then": {"type": ["number", "null"]}},
    about="Of a cascade: the raw values of both models; null if the second was not asked.",
)


def item(document: schemas.Schema) -> schemas.Schema:
    """The schema of a result, with that of its document."""
    return schemas.obj(
        {
            "index": schemas.INDEX,
            "relevance_score": schemas.SCORE,
            "raw_score": schemas.RAW_SCORE,
            "stage": _STAGE,
            "raw_scores": _BOTH,
            "chunk": schemas.CHUNK,
            "document": document,
        },
        optional="stage raw_scores chunk document",
    )


def answer(version: str, **more: schemas.Schema) -> schemas.Schema:
    """The schema of an answer; `more` are its fields beside ours, or in place of them."""
    count = schemas.typed("integer", minimum=0)
    meta = {
        "api_version": schemas.obj({"version": schemas.const(version)}),
        "billed_units": schemas.obj({"search_units": count}),
        "tokens": schemas.obj({"input_tokens": count, "output_tokens": count}),
        "warnings": schemas.listed(schemas.typed("string", "What a reader should know.")),
    }
    fields = {
        "id": schemas.ID,
        "object": schemas.const("rerank"),
        "model": schemas.MODEL,
        "results": schemas.listed(item(schemas.ANSWERED_DOCUMENT), description="Best first."),
        "usage": schemas.USAGE,
        "meta": schemas.obj(meta, optional="warnings"),
    }
    return schemas.obj({**fields, **more})


DATA_ITEM = {"index": schemas.INDEX, "relevance_score": schemas.SCORE}


def _doc(title: str, *, answer: schemas.Schema, echo: bool) -> Doc:
    return Doc(
        title=title,
        about="Texts in `documents`; the results come back best first, with all that its clients"
        " read.",
        fields=FIELDS,
        required=[("query", "documents")],
        answer=answer,
        example={**schemas.EXAMPLE, "top_n": 2, "return_documents": echo},
    )


V1 = Dialect(
    "cohere-v1",
    ("/v1/rerank",),
    "documents",
    parse,
    render_v1,
    doc=_doc(
        "Cohere v1, Jina, Infinity, xinference",
        answer=answer("1", data=schemas.listed(schemas.obj(DATA_ITEM))),
        echo=False,
    ),
)
V2 = Dialect(
    "cohere-v2",
    ("/v2/rerank",),
    "documents",
    parse,
    partial(render, version="2"),
    doc=_doc("Cohere v2", answer=answer("2"), echo=True),
)
VLLM = replace(
    V2,
    name="vllm-rerank",
    paths=("/rerank",),
    doc=_doc("vLLM, LiteLLM, Dify, LocalAI", answer=answer("2"), echo=True),
)
