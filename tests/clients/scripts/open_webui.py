"""Open WebUI's external reranker: the whole address in its settings, every document wanted back."""

import requests

ENVIRONMENTS = "own"
WRONG_KEY = UNKNOWN_MODEL = "HTTPError"
HIDES = "HTTPError"  # `raise_for_status` tells the status alone


def external(url, key, model, query, documents):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    body = {"model": model, "query": query, "documents": documents, "top_n": len(documents)}
    response = requests.post(f"{url}/v1/rerank", headers=headers, json=body, timeout=60)
    response.raise_for_status()
    return [
        {"index": r["index"], "score": r["relevance_score"]} for r in response.json()["results"]
    ]
