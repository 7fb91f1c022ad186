"""Mixedbread's SDK, sync and async."""

import mixedbread

ENVIRONMENTS = "cohere7"
WRONG_KEY = "AuthenticationError"
UNKNOWN_MODEL = "NotFoundError"


def client(url, key, model, query, documents, top_n):
    mxbai = mixedbread.Mixedbread(api_key=key, base_url=url)
    answer = mxbai.rerank(model=model, query=query, input=documents, top_k=top_n, return_input=True)
    return [{"index": r.index, "score": r.score, "document": r.input} for r in answer.data]


async def client_async(url, key, model, query, documents, top_n):
    mxbai = mixedbread.AsyncMixedbread(api_key=key, base_url=url)
    answer = await mxbai.rerank(
        model=model, query=query, input=documents, top_k=top_n, return_input=True
    )
    return [{"index": r.index, "score": r.score, "document": r.input} for r in answer.data]
