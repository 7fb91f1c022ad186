"""Mixedbread's reranking API: the texts are `input`."""

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc
from serve.dialects.fields import boolean, count, documents, text
from serve.dialects.options import common
from serve.rerank import RerankRequest, RerankResult


def parse(body: Body) -> RerankRequest:
    passages, originals = documents(body, "input")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        originals=originals,
        fields=("query", "input"),
        top_n=count(body, "top_k", "top_n"),
        is_ranked=True,
        echo=boolean(body, "return_input", default=False),
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult) -> object:
    inputs = request.originals or request.passages
    return {
        "object": "list",
        "model": result.model,
        "data": [
            {
                "object": "rank_result",
                "index": index,
                "score": result.scores[index],
                "input": inputs[index] if request.echo else None,
            }
            for index in result.ranking
        ],
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "total_tokens": result.prompt_tokens,
            "completion_tokens": 0,
        },
        "top_k": len(result.ranking),
        "return_input": request.echo,
    }


DOC = Doc(
    title="Mixedbread",
    about="The texts are `input`.",
    fields={
        "query": schemas.QUERY,
        "input": schemas.DOCUMENTS,
        "top_k": schemas.TOP_N,
        "top_n": schemas.ref("Count", "The same as `top_k`, which counts if both are there."),
        "rank_fields": schemas.RANK_FIELDS,
        "return_input": schemas.echo(False, "the texts"),
        **schemas.COMMON,
    },
    required=[("query", "input")],
    answer=schemas.obj(
        {
            "object": schemas.const("list"),
            "model": schemas.MODEL,
            "data": schemas.listed(
                schemas.obj(
                    {
                        "object": schemas.const("rank_result"),
                        "index": schemas.INDEX,
                        "score": schemas.SCORE,
                        "input": {"type": ["string", "object", "null"]},
                    }
                )
            ),
            "usage": schemas.obj({**schemas.TOKENS, "completion_tokens": {"const": 0}}),
            "top_k": schemas.typed("integer", "How many results there are."),
            "return_input": schemas.typed("boolean"),
        }
    ),
    example={"query": schemas.QUESTION, "input": schemas.PASSAGES, "top_k": 1},
)
DIALECT = Dialect("mixedbread", ("/v1/reranking", "/reranking"), "input", parse, render, doc=DOC)
