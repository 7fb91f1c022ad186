"""Cohere's SDK: `ClientV2` with this server as its base URL."""

from collections.abc import Sequence

import cohere
import httpx

from clients.wire import TIMEOUT_S, Ranked, Reranker

DEFAULT_MODEL = ""  # the SDK wants a name; an empty one asks for the server's default


class CohereReranker(Reranker):
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
        self._model = model or DEFAULT_MODEL
        self._http = httpx.Client(timeout=timeout_s)  # ours, since the SDK cannot close its own
        self._client = cohere.ClientV2(
            api_key or "none", base_url=base_url, timeout=timeout_s, httpx_client=self._http
        )

    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them. Raises cohere's ApiError."""
        answer = self._client.rerank(
            model=self._model, query=query, documents=list(passages), top_n=top_n
        )
        return [Ranked(r.index, r.relevance_score, passages[r.index]) for r in answer.results]

    def close(self) -> None:
        self._http.close()
