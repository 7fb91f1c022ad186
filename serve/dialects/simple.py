"""The simple route: `{query, passages, use_llm}` → a list of scores, one for each passage."""

from serve.dialects.base import Body, Dialect
from serve.dialects.fields import string, text, texts
from serve.dialects.options import common
from serve.rerank import RerankRequest, RerankResult


def parse(body: Body) -> RerankRequest:
    return RerankRequest(
        queries=[text(body, "query")],
        passages=texts(body, "passages", read=string),
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult) -> object:
    return result.scores


DIALECT = Dialect("simple", ("/rerank", "/v1/rerank"), "passages", parse, render)
