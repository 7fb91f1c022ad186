"""Haystack's rankers for Cohere, Jina, Text Embeddings Inference and vLLM."""

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

ENVIRONMENTS = "cohere7"
WRONG_KEY = "UnauthorizedError RuntimeError"
UNKNOWN_MODEL = "NotFoundError RuntimeError"


def cohere(url, key, model, query, documents, top_n):
    ranker = CohereRanker(
        model=model, api_key=Secret.from_token(key), api_base_url=url, top_k=top_n
    )
    return _ranked(ranker, query, documents)


def jina(url, key, model, query, documents, top_n):
    address = f"{url}/v1/rerank"
    ranker = JinaRanker(model=model, api_key=Secret.from_token(key), base_url=address, top_k=top_n)
    return _ranked(ranker, query, documents)


def text_embeddings_inference(url, key, query, documents, top_n):
    ranker = HuggingFaceTEIRanker(url=url, token=Secret.from_token(key), top_k=top_n)
    return _ranked(ranker, query, documents)


def vllm(url, key, model, query, documents, top_n):
    ranker = VLLMRanker(
        model=model, api_key=Secret.from_token(key), api_base_url=f"{url}/v1", top_k=top_n
    )
    return _ranked(ranker, query, documents)


async def vllm_async(url, key, model, query, documents, top_n):
    ranker = VLLMRanker(
        model=model, api_key=Secret.from_token(key), api_base_url=f"{url}/v1", top_k=top_n
    )
    texts = [Document(content=text) for text in documents]
    return _results(await ranker.run_async(query=query, documents=texts), documents)


def _ranked(ranker, query, documents):
    texts = [Document(content=text) for text in documents]
    return _results(ranker.run(query=query, documents=texts), documents)


def _results(found, documents):
    return [
        {"index": documents.index(document.content), "score": document.score}
        for document in found["documents"]
    ]
