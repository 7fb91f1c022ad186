"""Infinity's generated client."""

from infinity_client import AuthenticatedClient
from infinity_client.api.default import rerank
from infinity_client.models import RerankInput

ENVIRONMENTS = "cohere6"
WRONG_KEY = UNKNOWN_MODEL = "UnexpectedStatus"


def client(url, key, model, query, documents, top_n):
    infinity = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
    body = RerankInput(
        query=query, documents=documents, model=model, top_n=top_n, return_documents=False
    )
    answer = rerank.sync(client=infinity, body=body)
    return [{"index": r.index, "score": r.relevance_score} for r in answer.results]


async def client_async(url, key, model, query, documents, top_n):
    address = f"{url}/infinity"  # where a document comes back as the plain string of its type
    infinity = AuthenticatedClient(base_url=address, token=key, raise_on_unexpected_status=True)
    body = RerankInput(
        query=query, documents=documents, model=model, top_n=top_n, return_documents=True
    )
    answer = await rerank.asyncio(client=infinity, body=body)
    return [
        {"index": r.index, "score": r.relevance_score, "document": r.document}
        for r in answer.results
    ]
