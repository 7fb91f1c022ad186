"""Pinecone's rerank API: documents are objects, options stand in `parameters`."""

from collections.abc import Mapping

from serve.dialects import documents, schemas
from serve.dialects.base import Body, Dialect, Doc, Headers
from serve.dialects.options import common
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest, RerankResult


def is_meant(body: Body, headers: Headers) -> bool:
    """Whether the request says its API's version, as Pinecone's clients do, or has its options."""
    return "x-pinecone-api-version" in headers or body.get("parameters") is not None


def parse(body: Body) -> RerankRequest:
    parameters = body.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise InvalidRequest("parameters must be an object.", param="parameters")
    given = {name: value for name, value in body.items() if value is not None}
    return documents.parse(body)._replace(**common({**parameters, **given}))


def render(request: RerankRequest, result: RerankResult) -> object:
    data: list[dict[str, object]] = [
        {"index": index, "score": result.scores[index]} for index in result.ranking
    ]
    if request.echo:
        for item, index in zip(data, result.ranking, strict=True):
            item["document"] = documents.document(request, index)
    return {"model": result.model, "data": data, "usage": {"rerank_units": 1}}


DOC = Doc(
    title="Pinecone",
    about="`documents` with `parameters`, or with the header `x-pinecone-api-version`.",
    fields={
        "query": schemas.QUERY,
        "documents": schemas.DOCUMENTS,
        "top_n": schemas.TOP_N,
        "top_k": schemas.TOP_K,
        "rank_fields": schemas.RANK_FIELDS,
        "return_documents": schemas.echo(True),
        "parameters": {
            "type": ["object", "null"],
            "properties": schemas.COMMON,
            "description": "Any of the fields of every API that the body has not: `truncate`.",
        },
        **schemas.COMMON,
    },
    required=[("query", "documents")],
    answer=schemas.obj(
        {
            "model": schemas.MODEL,
            "data": schemas.listed(
                schemas.obj(
                    {
                        "index": schemas.INDEX,
                        "score": schemas.SCORE,
                        "document": schemas.ANSWERED_DOCUMENT,
                    },
                    optional="document",
                )
            ),
            "usage": schemas.obj({"rerank_units": schemas.typed("integer")}),
        }
    ),
    example={
        "query": schemas.QUESTION,
        "documents": [{"id": f"{i}", "text": t} for i, t in enumerate(schemas.PASSAGES)],
        "top_n": 1,
        "parameters": {"truncate": "END"},
    },
    headers={"x-pinecone-api-version": "Any value says that the body is in Pinecone's API."},
)
DIALECT = Dialect("pinecone", ("/rerank",), "documents", parse, render, is_meant=is_meant, doc=DOC)
