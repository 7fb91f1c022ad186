"""Cohere's SDK: `ClientV2` with this server as its base URL."""

from collections.abc import Sequence

import cohere
import httpx

from clients.wire import Ranked, Reranker

DEFAULT_MODEL = ""  # the SDK wants a name; an empty one asks for the server's default


class CohereReranker(Reranker):
    """A connection through this SDK, as `Reranker` describes."""

    def connect(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._http = httpx.Client(timeout=timeout_s)  # ours, since the SDK cannot close its own
        self._client = cohere.ClientV2(
            api_key or "none", base_url=base_url, timeout=timeout_s, httpx_client=self._http
        )

    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them. Raises cohere's ApiError."""
        answer = self._client.rerank(
            model=self.model or DEFAULT_MODEL, query=query, documents=list(passages), top_n=top_n
        )
        return [Ranked(r.index, r.relevance_score, passages[r.index]) for r in answer.results]

    def close(self) -> None:
        self._http.close()
