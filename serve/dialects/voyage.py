"""Voyage's rerank API. Its path is shared with others, so its answer holds theirs too.

Only its clients read `data`, where a document is a plain string.
"""

from serve.dialects import documents, schemas
from serve.dialects.base import Body, Dialect, Doc, Headers
from serve.dialects.fields import boolean
from serve.rerank import RerankRequest, RerankResult


def is_meant(body: Body, headers: Headers) -> bool:
    """Whether a body has what Voyage's clients send and no other does without harm."""
    return body.get("top_k") is not None or body.get("truncation") is not None


def parse(body: Body) -> RerankRequest:
    return documents.parse(body)._replace(echo=boolean(body, "return_documents", default=False))


def render(request: RerankRequest, result: RerankResult) -> object:
    data = documents.data(result)
    if request.echo:
        for item, index in zip(data, result.ranking, strict=True):
            item["document"] = request.passages[index]
    return {**documents.render(request, result, version="1"), "object": "list", "data": data}


_ITEM = schemas.obj(
    {**documents.DATA_ITEM, "document": schemas.typed("string")}, optional="document"
)
DOC = Doc(
    title="Voyage",
    about="`documents` with `top_k` or `truncation`. Its answer is `data`; the rest is others'.",
    fields={**documents.FIELDS, "return_documents": schemas.echo(False)},
    required=[("query", "documents")],
    answer=documents.answer(version="1", data=schemas.listed(_ITEM), object=schemas.const("list")),
    example={**schemas.EXAMPLE, "top_k": 1, "return_documents": True},
)
DIALECT = Dialect(
    "voyage", ("/v1/rerank", "/rerank"), "documents", parse, render, is_meant=is_meant, doc=DOC
)
