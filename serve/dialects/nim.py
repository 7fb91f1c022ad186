"""NVIDIA NIM's ranking API: query and passages are objects, the answer holds raw values."""

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc, Headers
from serve.dialects.fields import count, not_empty, string_or_document, text, texts
from serve.dialects.options import common
from serve.rerank import RerankRequest, RerankResult


def is_meant(body: Body, headers: Headers) -> bool:
    """Whether query and passages are objects: the simple route's are strings."""
    passages = body.get("passages")
    return isinstance(body.get("query"), dict) or (
        isinstance(passages, list) and bool(passages) and isinstance(passages[0], dict)
    )


def parse(body: Body) -> RerankRequest:
    passages = texts(body, "passages", read=string_or_document)
    not_empty(passages, "passages")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        top_n=count(body, "top_n", "top_k"),  # some clients send one, though NIM has none
        is_ranked=True,
        echo=False,
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult) -> object:
    return {
        "rankings": [{"index": index, "logit": result.raw[index]} for index in result.ranking],
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }


DOC = Doc(
    title="NVIDIA NIM",
    about="Query and `passages` are objects; the raw values come back (`logit`), best first. Also"
    " at `/v1/retrieval/…/reranking`.",
    fields={
        "query": schemas.QUERY,
        "passages": schemas.TEXTS,
        "top_n": schemas.TOP_N,
        "top_k": schemas.TOP_K,
        **schemas.COMMON,
    },
    required=[("query", "passages")],
    answer=schemas.obj(
        {
            "rankings": schemas.listed(
                schemas.obj({"index": schemas.INDEX, "logit": schemas.RAW_SCORE})
            ),
            "usage": schemas.USAGE,
        }
    ),
    example={
        "query": {"text": schemas.QUESTION},
        "passages": [{"text": passage} for passage in schemas.PASSAGES],
        "truncate": "END",
    },
)
OWN_PATHS = Dialect("nim", ("/v1/ranking", "/ranking"), "passages", parse, render, doc=DOC)
SHARED_PATHS = Dialect(
    "nim", ("/v1/rerank", "/rerank"), "passages", parse, render, is_meant=is_meant, doc=DOC
)
