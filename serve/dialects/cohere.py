"""Rerank bodies with `documents`: Cohere v1 and v2, and vLLM's and Jina's rerank API.

They ask alike, and one answer that holds what each of them reads serves them all. `document` is in
the answer unless `return_documents` is false, as vLLM does it and clients of it rely on.
"""

from collections.abc import Iterator
from functools import partial

from serve.dialects.base import (
    Body,
    Dialect,
    boolean,
    common,
    count,
    not_empty,
    string_or_document,
    text,
    texts,
)
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest, RerankResult

PLACES_NAMED = 20  # in a warning
DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere's billing unit: one query with up to so many documents


def parse(body: Body) -> RerankRequest:
    chunks = count(body, "max_chunks_per_doc")
    if chunks is not None and chunks > 1:
        raise InvalidRequest(
            "max_chunks_per_doc above 1 is not supported: an over-long document is cut at the"
            " model's length. Split it yourself, or send 1.",
            param="max_chunks_per_doc",
        )
    passages = texts(body, "documents", read=string_or_document)
    not_empty(passages, "documents")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        fields=("query", "documents"),
        top_n=count(body, "top_n", "top_k"),
        is_ranked=True,
        echo=boolean(body, "return_documents", default=True),
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult, *, version: str) -> object:
    units = -(-len(request.passages) // DOCUMENTS_PER_SEARCH_UNIT)
    warnings = list(_warnings(result))
    return {
        "id": result.id,
        "object": "rerank",
        "model": result.model,
        "results": _items(request, result),
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": units},
            "tokens": {"input_tokens": result.prompt_tokens},
            **({"warnings": warnings} if warnings else {}),
        },
    }


def _items(request: RerankRequest, result: RerankResult) -> list[dict[str, object]]:
    """The results: scores and the raw values behind them; of a cascade, also who gave them."""
    scores, raw = result.scores, result.raw
    items: list[dict[str, object]] = [
        {"index": index, "relevance_score": scores[index], "raw_score": raw[index]}
        for index in result.ranking
    ]
    if stages := result.stages:
        for item, index in zip(items, result.ranking, strict=True):
            item["stage"] = stages.of(index)
            item["raw_scores"] = {"first": stages.first[index], "then": stages.then.get(index)}
    if request.echo:
        for item, index in zip(items, result.ranking, strict=True):
            item["document"] = {"text": request.passages[index]}
    return items


def _warnings(result: RerankResult) -> Iterator[str]:
    if result.cut:
        places = ", ".join(f"documents[{index}]" for index in result.cut[:PLACES_NAMED])
        more = len(result.cut) - PLACES_NAMED
        yield f"cut before they were scored: {places}" + (f" and {more} more" if more > 0 else "")
    if result.stages:
        yield "a cascade of two models: relevance_score compares within a stage only"


V1 = Dialect("cohere-v1", ("/v1/rerank",), ("documents",), parse, partial(render, version="1"))
V2 = Dialect(
    "cohere-v2", ("/v2/rerank", "/rerank"), ("documents",), parse, partial(render, version="2")
)
