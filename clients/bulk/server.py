"""The server as a run sees it: a ranking for texts, and what model gives it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from clients.errors import NotFound
from clients.requests_client import RerankClient
from clients.retry import Retry
from clients.wire import Options, Ranked

# What makes a model's scores what they are; `ready` and the like change by themselves.
IDENTITY = ("root", "revision", "dtype", "score", "cascade")


class Scorer(Protocol):
    """What a run needs of a server. Both raise RerankError; `rank` is called by many threads."""

    def identity(self) -> Mapping[str, object]: ...

    def rank(self, query: str, passages: Sequence[str]) -> list[Ranked]: ...


class Server:
    """A Scorer over HTTP: a client for each thread, made by `connect`, and `options` for it.

    `retry` is for rankings. What cannot be reached at the start is given up sooner: the address may
    be wrong.
    """

    def __init__(
        self, connect: Callable[[Retry], RerankClient], options: Options, retry: Retry
    ) -> None:
        self._connect, self._options, self._retry = connect, options, retry
        self._local = threading.local()
        self._clients: list[RerankClient] = []

    def identity(self) -> Mapping[str, object]:
        """What is known of the model that will answer; nothing of a server without a list."""
        try:
            with self._connect(Retry()) as client:
                entries = client.models()
        except NotFound:
            return {}
        entry = choose(entries, self._options.get("model"), bool(self._options.get("use_llm")))
        return {name: entry[name] for name in IDENTITY if entry.get(name) is not None}

    def rank(self, query: str, passages: Sequence[str]) -> list[Ranked]:
        return self._client().rerank(query, passages, **self._options)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _client(self) -> RerankClient:
        client: RerankClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect(self._retry)
            self._clients.append(client)
        return client


def choose(
    entries: Sequence[Mapping[str, object]], model: str | None, use_llm: bool
) -> Mapping[str, object]:
    """The entry of GET /v1/models that answers such a request. Pure.

    A name that is not listed is answered by the default, or refused, as the server is set up.
    """
    for entry in entries:
        if model is not None and str(entry.get("id")).lower() == model.lower():
            return entry
    mark = "llm" if use_llm and model is None else "default"
    return next((entry for entry in entries if entry.get(mark)), {})
