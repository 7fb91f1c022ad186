"""The simple route: `{query, passages, use_llm}` → a list of scores, one for each passage."""

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc
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


DOC = Doc(
    title="Simple",
    about="Texts in `passages`, as strings; a list of scores comes back, one for each, in order.",
    fields={
        "query": {"type": "string", "description": "What is looked for."},
        "passages": schemas.listed(
            {"type": "string"}, description="The texts to score; none give no scores."
        ),
        **schemas.COMMON,
    },
    required=[("query", "passages")],
    answer=schemas.listed(schemas.SCORE),
    example={"query": schemas.QUESTION, "passages": schemas.PASSAGES, "use_llm": False},
)
DIALECT = Dialect("simple", ("/rerank", "/v1/rerank"), "passages", parse, render, doc=DOC)
