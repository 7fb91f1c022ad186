"""The OpenAI SDK: its client posts to `/rerank`, with its own retries, time-outs and errors."""

from collections.abc import Sequence

import openai

from clients.wire import TIMEOUT_S, Ranked, Reranker


class _Document(openai.BaseModel):
    text: str


class _Result(openai.BaseModel):
    index: int
    relevance_score: float
    document: _Document


class _Rerank(openai.BaseModel):
    results: list[_Result]


class OpenAIReranker(Reranker):
    """A connection to `base_url` (`http://HOST:PORT`)."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`model` None asks for the server's default; `timeout_s` bounds each request."""
        self._model = model
        self._client = openai.OpenAI(
            base_url=base_url.rstrip("/") + "/v1",
            api_key=api_key or "none",  # the SDK wants one; a server without keys does not look
            timeout=timeout_s,
        )

    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them. Raises openai.APIError."""
        answer = self._client.post(
            "/rerank",
            body={
                "model": self._model,
                "query": query,
                "documents": list(passages),
                "top_n": top_n,
            },
            cast_to=_Rerank,
        )
        return [Ranked(r.index, r.relevance_score, r.document.text) for r in answer.results]

    def close(self) -> None:
        self._client.close()
