"""Pinecone's rerank API: documents are objects, options stand in `parameters`."""

from collections.abc import Mapping

from serve.dialects.base import Body, Dialect, Headers
from serve.dialects.documents import document
from serve.dialects.fields import boolean, choice, count, documents, text
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
    truncate = choice(parameters, "truncate", "NONE", "END", where="parameters.truncate")
    passages, originals = documents(body, "documents")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        originals=originals,
        fields=("query", "documents"),
        top_n=count(body, "top_n"),
        may_cut=truncate != "NONE",
        is_ranked=True,
        echo=boolean(body, "return_documents", default=True),
        **common({**parameters, **body}),
    )


def render(request: RerankRequest, result: RerankResult) -> object:
    data: list[dict[str, object]] = [
        {"index": index, "score": result.scores[index]} for index in result.ranking
    ]
    if request.echo:
        for item, index in zip(data, result.ranking, strict=True):
            item["document"] = document(request, index)
    return {"model": result.model, "data": data, "usage": {"rerank_units": 1}}


DIALECT = Dialect("pinecone", ("/rerank",), "documents", parse, render, is_meant=is_meant)
