"""`requests` and vLLM's score API: one query against many passages, scores in their order."""

from collections.abc import Sequence

import requests

from clients.wire import Ranked, Reranker, ranked


class ScoreClient(Reranker):
    """A connection through `requests`, as `Reranker` describes."""

    def connect(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = base_url + "/score"
        self._timeout_s = timeout_s
        self._http = requests.Session()
        if api_key:
            self._http.headers["authorization"] = f"Bearer {api_key}"

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """One score for each passage, 0..1, in the order of `passages`.

        Raises requests.HTTPError with the server's message when it refuses, and requests' other
        exceptions when it cannot be reached.
        """
        body = {"model": self.model, "text_1": query, "text_2": list(passages)}
        answer = self._http.post(self._url, json=body, timeout=self._timeout_s)
        if not answer.ok:
            raise requests.HTTPError(f"{answer.status_code}: {_message(answer)}", response=answer)
        return [item["score"] for item in answer.json()["data"]]

    def rerank(self, query: str, passages: Sequence[str], top_n: int | None = None) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them. Raises as `score` does."""
        return ranked(passages, self.score(query, passages))[:top_n]

    def close(self) -> None:
        self._http.close()


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
