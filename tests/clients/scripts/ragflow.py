"""RAGFlow's model providers: vLLM, Xinference and NVIDIA. It wants the scores of all texts."""

import requests

ENVIRONMENTS = "own"
WRONG_KEY = UNKNOWN_MODEL = "KeyError"
HIDES = "KeyError"  # it does not look at the status


def vllm(url, key, model, query, documents):
    body = {"model": model, "query": query, "documents": documents, "top_n": len(documents)}
    answer = _post(f"{url}/v1/rerank", key, body)
    assert answer["usage"]["total_tokens"] > 0
    return [{"index": r["index"], "score": r["relevance_score"]} for r in answer["results"]]


def xinference(url, key, model, query, documents):
    body = {
        "model": model,
        "query": query,
        "return_documents": "true",
        "return_len": "true",
        "documents": documents,
    }
    answer = _post(f"{url}/v1/rerank", key, body)
    results = [{"index": r["index"], "score": r["relevance_score"]} for r in answer["results"]]
    tokens = answer["meta"]["tokens"]
    assert tokens["input_tokens"] + tokens["output_tokens"] > 0
    return results


def nvidia(url, key, model, query, documents, top_n):
    body = {
        "model": model,
        "query": {"text": query},
        "passages": [{"text": document} for document in documents],
        "truncate": "END",
        "top_n": top_n,
    }
    answer = _post(f"{url}/v1/ranking", key, body)
    return [{"index": r["index"], "logit": r["logit"]} for r in answer["rankings"]]


def _post(address, key, body):
    headers = {"Content-Type": "application/json", "accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return requests.post(address, headers=headers, json=body, timeout=30).json()
