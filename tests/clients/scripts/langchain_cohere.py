"""LangChain's CohereRerank, over Document objects and over dicts."""

import yaml
from langchain_cohere import CohereRerank
from langchain_core.documents import Document

ENVIRONMENTS = "cohere5"
WRONG_KEY = "UnauthorizedError"
UNKNOWN_MODEL = "NotFoundError"


def compress_documents(url, key, model, query, documents, top_n):
    reranker = CohereRerank(base_url=url, cohere_api_key=key, model=model, top_n=top_n)
    found = reranker.compress_documents([Document(page_content=d) for d in documents], query)
    return [
        {
            "index": documents.index(document.page_content),
            "score": document.metadata["relevance_score"],
        }
        for document in found
    ]


def rerank_dicts(url, key, model, query, documents, top_n):
    reranker = CohereRerank(base_url=url, cohere_api_key=key, model=model, top_n=top_n)
    dicts = [{"title": "A page", "text": document} for document in documents]
    return [
        {
            "index": found["index"],
            "score": found["relevance_score"],
            "scored": yaml.dump(dicts[found["index"]], sort_keys=False),  # what LangChain sends
        }
        for found in reranker.rerank(dicts, query)
    ]
