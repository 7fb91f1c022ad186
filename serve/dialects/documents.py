"""Rerank bodies with `documents`: those of Cohere v1 and v2, Jina, vLLM, Infinity and LiteLLM.

They ask alike, and one answer that holds what each of them reads serves them all. `document` is in
the answer unless `return_documents` is false, as vLLM does it and clients of it rely on.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from serve.dialects.base import Body, Dialect
from serve.dialects.fields import boolean, count, documents, text
from serve.dialects.options import common
from serve.errors import InvalidRequest
from serve.rerank import Chunk, RerankRequest, RerankResult

PLACES_NAMED = 20  # in a warning
DOCUMENTS_PER_SEARCH_UNIT = 100  # Cohere's billing unit: one query with up to so many documents


def parse(body: Body) -> RerankRequest:
    _refuse_spans(body.get("relevant_spans"))
    passages, originals = documents(body, "documents")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        originals=originals,
        fields=("query", "documents"),
        top_n=count(body, "top_n", "top_k"),
        may_cut=boolean(body, "truncation", default=True),
        is_ranked=True,
        echo=boolean(body, "return_documents", default=True),
        **common(body),
    )


def _refuse_spans(asked: object) -> None:
    if asked and not (isinstance(asked, Mapping) and asked.get("mode") == "disabled"):
        raise InvalidRequest(
            "relevant_spans is not offered: leave it out. With `max_chunks_per_doc` above 1 each"
            " result tells which part of a long document gave its score (`chunk`).",
            param="relevant_spans",
        )


def render(request: RerankRequest, result: RerankResult, *, version: str) -> dict[str, object]:
    units = -(-len(request.passages) // DOCUMENTS_PER_SEARCH_UNIT)
    notes = warnings(request, result)
    return {
        "id": result.id,
        "object": "rerank",
        "model": result.model,
        "results": items(request, result),
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"search_units": units},
            "tokens": {"input_tokens": result.prompt_tokens},
            **({"warnings": notes} if notes else {}),
        },
    }


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
                item["chunk"] = chunk_of(chunks[index])
    if request.echo:
        for item, index in zip(ranked, result.ranking, strict=True):
            item["document"] = document(request, index)
    return ranked


def document(request: RerankRequest, index: int) -> dict[str, object]:
    """A passage as the object that it came in, or as one with its `text`."""
    original = request.originals[index] if request.originals else None
    if isinstance(original, Mapping):
        return {"text": request.passages[index], **original}
    return {"text": request.passages[index]}


def chunk_of(chunk: Chunk) -> dict[str, int]:
    """Which part of a document won: the characters `start` to `end` (exclusive)."""
    return {"index": chunk.index, "count": chunk.count, "start": chunk.start, "end": chunk.end}


def warnings(request: RerankRequest, result: RerankResult) -> list[str]:
    """What a reader of the scores should know."""
    return list(_warnings(request.fields[1], result))


def _warnings(field: str, result: RerankResult) -> Iterator[str]:
    if result.cut:
        places = ", ".join(f"{field}[{index}]" for index in result.cut[:PLACES_NAMED])
        more = len(result.cut) - PLACES_NAMED
        yield f"cut before they were scored: {places}" + (f" and {more} more" if more > 0 else "")
    if result.stages:
        yield "a cascade of two models: relevance_score compares within a stage only"


def _dialect(name: str, path: str, version: str) -> Dialect:
    return Dialect(name, (path,), "documents", parse, partial(render, version=version))


V1 = _dialect("cohere-v1", "/v1/rerank", "1")  # Jina, Infinity, xinference and others too
V2 = _dialect("cohere-v2", "/v2/rerank", "2")
VLLM = _dialect("vllm-rerank", "/rerank", "2")  # LiteLLM, Dify, LocalAI and others too
