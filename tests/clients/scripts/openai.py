"""OpenAI's SDK, which has no rerank method of its own: its general `post` does."""

import openai

ENVIRONMENTS = "cohere5 cohere7"
WRONG_KEY = "AuthenticationError"
UNKNOWN_MODEL = "NotFoundError"


class Result(openai.BaseModel):
    index: int
    relevance_score: float
    document: dict[str, str]


class Ranking(openai.BaseModel):
    results: list[Result]


def post(url, key, model, query, documents, top_n):
    client = openai.OpenAI(api_key=key, base_url=f"{url}/v1")
    body = {"model": model, "query": query, "documents": documents, "top_n": top_n}
    answer = client.post("/rerank", body=body, cast_to=Ranking)
    return [
        {"index": r.index, "score": r.relevance_score, "document": r.document["text"]}
        for r in answer.results
    ]


async def post_async(url, key, model, query, documents, top_n):
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1")
    body = {"model": model, "query": query, "documents": documents, "top_n": top_n}
    answer = await client.post("/rerank", body=body, cast_to=Ranking)
    return [
        {"index": r.index, "score": r.relevance_score, "document": r.document["text"]}
        for r in answer.results
    ]
