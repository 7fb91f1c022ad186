"""Mixedbread's reranking API: the texts are `input`."""

from serve.dialects.base import Body, Dialect
from serve.dialects.fields import boolean, count, documents, text
from serve.dialects.options import common
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest, RerankResult


def parse(body: Body) -> RerankRequest:
    if boolean(body, "rewrite_query", default=False):
        raise InvalidRequest(
            "rewrite_query is not offered: leave it out, the query is scored as it is.",
            param="rewrite_query",
        )
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


DIALECT = Dialect("mixedbread", ("/v1/reranking", "/reranking"), "input", parse, render)
