"""A cascade: all passages by one model, the best of them again by another."""

import asyncio
from dataclasses import replace
from typing import Protocol, TypedDict

from serve.errors import InvalidRequest
from serve.pool import Pool
from serve.rerank import RerankRequest, RerankResult, join_stages, rank


class Names(TypedDict):
    """What an answer is called."""

    model: str
    id: str
    created: int


class Served(Protocol):
    """What answers a request: a Pool, or a CascadePool."""

    @property
    def name(self) -> str: ...

    async def rerank(
        self, request: RerankRequest, *, model: str, id: str, created: int
    ) -> RerankResult: ...


class CascadePool:
    """Scores all passages with one model and the best `keep` of them again with another."""

    def __init__(self, name: str, first: Pool, then: Pool, keep: int) -> None:
        self.name = name
        self.first = first
        self.then = then
        self.keep = keep
        self.timeout_s = max(pool.model.limits.timeout_s for pool in (first, then))

    async def rerank(
        self, request: RerankRequest, *, model: str, id: str, created: int
    ) -> RerankResult:
        """The joined result. Raises RequestError, InvalidRequest for what is not a ranking."""
        if not request.is_ranked:
            raise InvalidRequest(
                f"{self.name!r} is a cascade: its two models' scores cannot be compared, so it"
                " gives a ranking and no plain scores. POST `documents` to /v2/rerank, or name"
                f" {self.first.name!r} or {self.then.name!r}.",
                param="model",
            )
        self.first.check(request)
        self.then.check(request)  # before the first one's work, and with the request's own indices
        loop, names = asyncio.get_running_loop(), Names(model=model, id=id, created=created)
        deadline = loop.time() + self.timeout_s
        whole = replace(request, top_n=None)
        first = await self.first.rerank(whole, **names, timeout_s=self.timeout_s)
        kept = rank(first.raw, self.keep)
        best = replace(whole, passages=[request.passages[index] for index in kept])
        left = max(0.001, deadline - loop.time())
        then = await self.then.rerank(best, **names, timeout_s=left)
        return join_stages(first, then, kept, request.top_n)

    @property
    def is_ready(self) -> bool:
        return self.first.is_ready and self.then.is_ready
