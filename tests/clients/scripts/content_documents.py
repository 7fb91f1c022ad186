"""Documents as objects: `{text}` and `{content}`, as several platforms send them."""

import requests

ENVIRONMENTS = "own"
WRONG_KEY = UNKNOWN_MODEL = "HTTPError"
HIDES = "HTTPError"  # `raise_for_status` tells the status alone


def content(url, key, model, query, documents, top_n):
    objects = [{"content": document, "score": 0.5} for document in documents]
    return _rank(url, key, model, query, objects, top_n)


def text(url, key, model, query, documents, top_n):
    objects = [{"text": document, "id": i} for i, document in enumerate(documents)]
    return _rank(url, key, model, query, objects, top_n)


def _rank(url, key, model, query, objects, top_n):
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": model, "query": query, "documents": objects, "top_n": top_n}
    response = requests.post(f"{url}/rerank", headers=headers, json=body, timeout=60)
    response.raise_for_status()
    return [
        {"index": r["index"], "score": r["relevance_score"]} for r in response.json()["results"]
    ]
