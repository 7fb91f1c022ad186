"""Voyage's rerank API. Its path is shared with others, so its answer holds theirs too.

Only its clients read `data`, where a document is a plain string.
"""

from dataclasses import replace

from serve.dialects import documents
from serve.dialects.base import Body, Dialect, Headers
from serve.dialects.fields import boolean
from serve.rerank import RerankRequest, RerankResult


def is_meant(body: Body, headers: Headers) -> bool:
    """Whether a body has what Voyage's clients send and no other does without harm."""
    return "top_k" in body or "truncation" in body


def parse(body: Body) -> RerankRequest:
    return replace(documents.parse(body), echo=boolean(body, "return_documents", default=False))


def render(request: RerankRequest, result: RerankResult) -> object:
    data: list[dict[str, object]] = [
        {"index": index, "relevance_score": result.scores[index]} for index in result.ranking
    ]
    if request.echo:
        for item, index in zip(data, result.ranking, strict=True):
            item["document"] = request.passages[index]
    return {**documents.render(request, result, version="1"), "object": "list", "data": data}


DIALECT = Dialect(
    "voyage", ("/v1/rerank", "/rerank"), "documents", parse, render, is_meant=is_meant
)
