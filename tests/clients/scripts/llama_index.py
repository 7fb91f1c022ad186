"""LlamaIndex's postprocessors for Cohere, Text Embeddings Inference and Jina."""

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

ENVIRONMENTS = "cohere6"
WRONG_KEY = "UnauthorizedError RuntimeError AssertionError"
UNKNOWN_MODEL = "NotFoundError RuntimeError"
HIDES = "AssertionError"  # its TEI client does not look at the status


def cohere(url, key, model, query, documents, top_n):
    reranker = CohereRerank(base_url=url, api_key=key, model=model, top_n=top_n)
    return _ranked(reranker, query, documents)


def jina(url, key, model, query, documents, top_n):
    reranker = JinaRerank(base_url=f"{url}/v1", api_key=key, model=model, top_n=top_n)
    return _ranked(reranker, query, documents)


def text_embeddings_inference(url, key, query, documents, top_n):
    reranker = TextEmbeddingInference(base_url=url, auth_token=f"Bearer {key}", top_n=top_n)
    return _ranked(reranker, query, documents)


def _ranked(reranker, query, documents):
    nodes = [NodeWithScore(node=TextNode(text=document)) for document in documents]
    found = reranker.postprocess_nodes(nodes, query_str=query)
    return [{"index": documents.index(item.node.text), "score": item.score} for item in found]
