"""The OpenAI SDK: its client posts to `/rerank`, with its own retries, time-outs and errors."""

from collections.abc import Sequence

import openai

from clients.wire import Ranked, Reranker


class _Document(openai.BaseModel):
    text: str


class _Result(openai.BaseModel):
    index: int
    relevance_score: float
    document: _Document


class _Rerank(openai.BaseModel):
    results: list[_Result]


class OpenAIReranker(Reranker):
    """A connection through this SDK, as `Reranker` describes."""

    def connect(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._client = openai.OpenAI(
            base_url=base_url + "/v1",
            api_key=api_key or "none",  # the SDK wants one; a server without keys does not look
            timeout=timeout_s,
        )

    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them. Raises openai.APIError."""
        answer = self._client.post(
            "/rerank",
            body={
                "model": self.model,
                "query": query,
                "documents": list(passages),
                "top_n": top_n,
            },
            cast_to=_Rerank,
        )
        return [Ranked(r.index, r.relevance_score, r.document.text) for r in answer.results]

    def close(self) -> None:
        self._client.close()
