"""Infinity's rerank API as its own server answers it: a document is a plain string.

Most of its clients do not mind and use `/rerank`; LiteLLM's provider `infinity` does, and its
requests cannot be told from others, so it has a path of its own.
"""

from serve.dialects import documents, schemas
from serve.dialects.base import Dialect, Doc
from serve.rerank import RerankRequest, RerankResult


def render(request: RerankRequest, result: RerankResult) -> object:
    items = documents.items(request, result)
    if request.echo:
        for item, index in zip(items, result.ranking, strict=True):
            item["document"] = request.passages[index]
    answer = documents.render(request._replace(echo=False), result, version="2")
    return {**answer, "results": items}


_ITEM = documents.item(schemas.typed("string", "The document."))
DIALECT = Dialect(
    "infinity",
    ("/infinity/rerank",),
    "documents",
    documents.parse,
    render,
    doc=Doc(
        title="Infinity, for LiteLLM",
        about="As `/rerank`, but a document comes back as a plain string.",
        fields=documents.FIELDS,
        required=[("query", "documents")],
        answer=documents.answer("2", results=schemas.listed(_ITEM, description="Best first.")),
        example={**schemas.EXAMPLE, "top_n": 1, "return_documents": True},
    ),
)
