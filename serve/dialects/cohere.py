"""Rerank bodies with `documents`: Cohere v1 and v2, and vLLM's and Jina's rerank API.

They ask alike, and one answer that holds what each of them reads serves them all. `document` is in
the answer unless `return_documents` is false, as vLLM does it and clients of it rely on.
"""

from collections.abc import Sequence
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
    return {
        "id": result.id,
        "object": "rerank",
        "model": result.model,
        "results": [_item(request, result, index) for index in result.ranking],
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": units},
            "tokens": {"input_tokens": result.prompt_tokens},
            **({"warnings": [_warning(result.cut)]} if result.cut else {}),
        },
    }


def _item(request: RerankRequest, result: RerankResult, index: int) -> dict[str, object]:
    """One result: the score and the raw value behind it; of a cascade, also who gave them."""
    item: dict[str, object] = {
        "index": index,
        "relevance_score": result.scores[index],
        "raw_score": result.raw[index],
    }
    if result.stages:
        then = result.stages.then.get(index)
        item["stage"] = "first" if then is None else "then"
        item["raw_scores"] = {"first": result.stages.first[index], "then": then}
    if request.echo:
        item["document"] = {"text": request.passages[index]}
    return item


def _warning(cut: Sequence[int]) -> str:
    places = ", ".join(f"documents[{index}]" for index in cut)
    return f"longer, with the query, than the model reads, so cut: {places}"


V1 = Dialect("cohere-v1", ("/v1/rerank",), ("documents",), parse, partial(render, version="1"))
V2 = Dialect(
    "cohere-v2", ("/v2/rerank", "/rerank"), ("documents",), parse, partial(render, version="2")
)
