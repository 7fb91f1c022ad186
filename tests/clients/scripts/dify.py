"""Dify's model providers, as their plugins ask: OpenAI-compatible, LocalAI, TEI and Xinference."""

import requests

ENVIRONMENTS = "own"
WRONG_KEY = UNKNOWN_MODEL = "HTTPError"
HIDES = "HTTPError"  # `raise_for_status` tells the status alone


def openai_api_compatible(url, key, model, query, documents, top_n):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "query": query, "documents": documents, "top_n": top_n}
    return _results(_post(f"{url}/v1/rerank", headers, {**body, "return_documents": True}))


def localai(url, key, model, query, documents):
    headers = {"Authorization": f"Bearer {key or None}"}
    body = {"model": model, "query": query, "documents": documents, "top_n": None}
    return _results(_post(f"{url}/rerank", headers, body))


def text_embeddings_inference(url, key, query, documents):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    info = requests.get(f"{url}/info", headers=headers, timeout=10)
    info.raise_for_status()
    assert "reranker" in info.json()["model_type"]
    assert info.json()["max_input_length"] > 0
    assert info.json()["max_client_batch_size"] > 0
    body = {"query": query, "texts": documents, "return_text": True}
    found = _post(f"{url}/rerank", headers, body)
    return [{"index": r["index"], "score": r["score"], "document": r["text"]} for r in found]


def xinference(url, key, model, query, documents, top_n):
    auth = requests.get(f"{url}/v1/cluster/auth", timeout=10).json()["auth"]
    headers = {"Authorization": f"Bearer {key}"} if auth else {}
    listing = requests.get(f"{url}/v1/models/{model}", headers=headers, timeout=10)
    listing.raise_for_status()
    assert listing.json()["model_type"] == "rerank"
    body = {
        "model": model,
        "documents": documents,
        "query": query,
        "top_n": top_n,
        "max_chunks_per_doc": None,
        "return_documents": True,
        "return_len": None,
        "kwargs": "{}",
    }
    return _results(_post(f"{url}/v1/rerank", headers, body))


def _post(address, headers, body):
    response = requests.post(address, headers=headers, json=body, timeout=60)
    response.raise_for_status()
    return response.json()


def _results(answer):
    return [
        {"index": r["index"], "score": r["relevance_score"], "document": r["document"]["text"]}
        for r in answer["results"]
    ]
