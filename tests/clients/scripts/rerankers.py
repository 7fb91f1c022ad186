"""AnswerDotAI's `rerankers`: its API rankers. It asks for all passages each time."""

from rerankers import Reranker

ENVIRONMENTS = "cohere7"
WRONG_KEY = UNKNOWN_MODEL = "KeyError TypeError"
HIDES = "KeyError TypeError"  # it does not look at the status


def cohere(url, key, model, query, documents):
    return _rank("cohere", f"{url}/v1/rerank", key, model, query, documents)


def jina(url, key, model, query, documents):
    return _rank("jina", f"{url}/v1/rerank", key, model, query, documents)


def voyage(url, key, model, query, documents):
    return _rank("voyage", f"{url}/v1/rerank", key, model, query, documents)


def mixedbread(url, key, model, query, documents):
    return _rank("mixedbread.ai", f"{url}/v1/reranking", key, model, query, documents)


def pinecone(url, key, model, query, documents):
    return _rank("pinecone", f"{url}/rerank", key, model, query, documents)


def text_embeddings_inference(url, key, model, query, documents):
    return _rank("text-embeddings-inference", f"{url}/rerank", key, model, query, documents)


def _rank(provider, address, key, model, query, documents):
    ranker = Reranker(
        model,
        model_type="APIRanker",
        api_provider=provider,
        api_key=key,
        url=address,
        verbose=0,
    )
    found = ranker.rank(query=query, docs=documents).results
    return [{"index": r.document.doc_id, "score": r.score} for r in found]
