"""Pinecone's SDK: `inference.rerank` at a host of one's own."""

from pinecone import Pinecone

ENVIRONMENTS = "cohere7"
WRONG_KEY = "UnauthorizedError"
UNKNOWN_MODEL = "NotFoundError"


def inference_rerank(url, key, model, query, documents, top_n):
    client = Pinecone(api_key=key, host=url)
    answer = client.inference.rerank(model=model, query=query, documents=documents, top_n=top_n)
    return [
        {"index": r.index, "score": r.score, "document": r.document["text"]} for r in answer.data
    ]


def rank_fields(url, key, model, query, documents, top_n):
    client = Pinecone(api_key=key, host=url)
    answer = client.inference.rerank(
        model=model,
        query=query,
        documents=[{"id": str(i), "summary": text} for i, text in enumerate(documents)],
        rank_fields=["summary"],
        top_n=top_n,
        parameters={"truncate": "END"},
    )
    return [
        {"index": int(r.document["id"]), "score": r.score, "document": r.document["summary"]}
        for r in answer.data
    ]
