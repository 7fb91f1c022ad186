"""Cohere's SDK, the majors in use: both versions of its API, sync and async."""

import cohere

ENVIRONMENTS = "cohere5 cohere6 cohere7"
WRONG_KEY = "UnauthorizedError"
UNKNOWN_MODEL = "NotFoundError"


def v2(url, key, model, query, documents, top_n):
    client = cohere.ClientV2(key, base_url=url)
    answer = client.rerank(model=model, query=query, documents=documents, top_n=top_n)
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]


async def v2_async(url, key, model, query, documents, top_n):
    async with cohere.AsyncClientV2(key, base_url=url) as client:
        answer = await client.rerank(model=model, query=query, documents=documents, top_n=top_n)
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]


def v1(url, key, model, query, documents, top_n):
    client = cohere.Client(key, base_url=url)
    answer = client.rerank(
        model=model, query=query, documents=documents, top_n=top_n, return_documents=True
    )
    return [
        {"index": r.index, "score": r.relevance_score, "document": r.document.text}
        for r in answer.results
    ]


def v1_rank_fields(url, key, model, query, documents, top_n):
    client = cohere.Client(key, base_url=url)
    answer = client.rerank(
        model=model,
        query=query,
        documents=[{"id": str(i), "summary": text} for i, text in enumerate(documents)],
        rank_fields=["summary"],
        top_n=top_n,
    )
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]


async def v1_async(url, key, model, query, documents, top_n):
    async with cohere.AsyncClient(key, base_url=url) as client:
        answer = await client.rerank(
            model=model,
            query=query,
            documents=[{"text": document} for document in documents],
            top_n=top_n,
            return_documents=True,
        )
    return [
        {"index": r.index, "score": r.relevance_score, "document": r.document.text}
        for r in answer.results
    ]
