"""Voyage AI's SDK, sync and async."""

import voyageai

ENVIRONMENTS = "cohere7"
WRONG_KEY = "AuthenticationError"
UNKNOWN_MODEL = "APIError"


def client(url, key, model, query, documents, top_n):
    voyage = voyageai.Client(api_key=key, base_url=f"{url}/v1")
    answer = voyage.rerank(query, documents, model=model, top_k=top_n)
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]


async def client_async(url, key, model, query, documents, top_n):
    voyage = voyageai.AsyncClient(api_key=key, base_url=f"{url}/v1")
    answer = await voyage.rerank(query, documents, model=model, top_k=top_n)
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]
