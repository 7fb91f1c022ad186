"""Xinference's RESTful client, which asks for the model's listing first."""

from xinference_client import RESTfulClient

ENVIRONMENTS = "cohere6"
WRONG_KEY = UNKNOWN_MODEL = "RuntimeError"


def restful(url, key, model, query, documents, top_n):
    client = RESTfulClient(url, api_key=key)
    reranker = client.get_model(model)
    answer = reranker.rerank(documents, query, top_n=top_n, return_documents=True)
    return [
        {
            "index": r["index"],
            "score": r["relevance_score"],
            "document": r["document"]["text"],
        }
        for r in answer["results"]
    ]
