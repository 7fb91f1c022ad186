"""LiteLLM's rerank, by each of its providers that takes an address of one's own."""

import litellm

ENVIRONMENTS = "cohere5"
WRONG_KEY = "AuthenticationError"
UNKNOWN_MODEL = "NotFoundError"


def hosted_vllm(url, key, model, query, documents, top_n):
    return _rerank("hosted_vllm", url, key, model, query, documents, top_n)


def cohere(url, key, model, query, documents, top_n):
    return _rerank("cohere", url, key, model, query, documents, top_n)


def jina_ai(url, key, model, query, documents, top_n):
    return _rerank("jina_ai", url, key, model, query, documents, top_n)


def huggingface(url, key, query, documents, top_n):
    # LiteLLM has `truncate: false` written into it: what is too long is refused, by TEI as well.
    short = [document[:200] for document in documents]
    found = _rerank("huggingface", url, key, "any", query, short, top_n)
    return [{"index": r["index"], "score": r["score"], "scored": r["document"]} for r in found]


def voyage(url, key, model, query, documents, top_n):
    return _rerank("voyage", url, key, model, query, documents, top_n)


def infinity(url, key, model, query, documents, top_n):
    return _rerank("infinity", f"{url}/infinity", key, model, query, documents, top_n)


def nvidia_nim(url, key, model, query, documents, top_n):
    found = _rerank("nvidia_nim", url, key, model, query, documents, top_n)
    return [{"index": r["index"], "logit": r["score"], "document": r["document"]} for r in found]


def nvidia_nim_ranking(url, key, model, query, documents, top_n):
    return nvidia_nim(url, key, f"ranking/{model}", query, documents, top_n)


async def hosted_vllm_async(url, key, model, query, documents, top_n):
    answer = await litellm.arerank(
        model=f"hosted_vllm/{model}",
        api_base=url,
        api_key=key,
        query=query,
        documents=documents,
        top_n=top_n,
    )
    return _results(answer)


def _rerank(provider, url, key, model, query, documents, top_n):
    answer = litellm.rerank(
        model=f"{provider}/{model}",
        api_base=url,
        api_key=key,
        query=query,
        documents=documents,
        top_n=top_n,
    )
    return _results(answer)


def _results(answer):
    return [
        {"index": r["index"], "score": r["relevance_score"], "document": r["document"]["text"]}
        for r in answer.results
    ]
