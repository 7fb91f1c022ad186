"""LibreChat's web search: the names of the models are written into it (here: names of `minilm`)."""

import requests

ENVIRONMENTS = "own"
WRONG_KEY = "HTTPError"
HIDES = "HTTPError"  # `raise_for_status` tells the status alone


def jina(url, key, query, documents, top_n):
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": query,
        "top_n": top_n,
        "documents": documents,
        "return_documents": True,
    }
    return _results(f"{url}/v1/rerank", key, body)


def cohere(url, key, query, documents, top_n):
    body = {"model": "rerank-v3.5", "query": query, "top_n": top_n, "documents": documents}
    return _results(f"{url}/v2/rerank", key, body)


def _results(address, key, body):
    headers = {"Authorization": f"Bearer {key}"}
    response = requests.post(address, headers=headers, json=body, timeout=10)
    response.raise_for_status()
    return [
        {"index": r["index"], "score": r["relevance_score"], "document": r["document"]["text"]}
        for r in response.json()["results"]
    ]
