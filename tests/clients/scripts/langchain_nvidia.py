"""LangChain's NVIDIARerank, which speaks NVIDIA NIM's API and gives logits."""

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank

ENVIRONMENTS = "cohere5"
WRONG_KEY = UNKNOWN_MODEL = "Exception"


def compress_documents(url, key, model, query, documents, top_n):
    reranker = NVIDIARerank(base_url=f"{url}/v1", api_key=key, model=model, top_n=top_n)
    found = reranker.compress_documents([Document(page_content=d) for d in documents], query)
    return _results(found, documents)


async def compress_documents_async(url, key, model, query, documents, top_n):
    reranker = NVIDIARerank(base_url=f"{url}/v1", api_key=key, model=model, top_n=top_n)
    texts = [Document(page_content=document) for document in documents]
    return _results(await reranker.acompress_documents(texts, query), documents)


def _results(found, documents):
    return [
        {
            "index": documents.index(document.page_content),
            "logit": document.metadata["relevance_score"],
        }
        for document in found
    ]
