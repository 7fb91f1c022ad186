"""A cascade: all passages by one model, the best of them again by another."""

import math
from typing import TypedDict

from serve.errors import InvalidRequest
from serve.pool import Admitted, Pool
from serve.rerank import RerankRequest, RerankResult, join_stages, rank
from serve.texts import TEXT_OPTIONS


class Names(TypedDict):
    """What an answer is called."""

    model: str
    id: str
    created: int


class CascadePool:
    """Scores all passages with one model and the best `keep` of them again with another."""

    def __init__(self, name: str, first: Pool, then: Pool, keep: int) -> None:
        self.name = name
        self.first = first
        self.then = then
        self.keep = keep
        self.pools = (first, then)
        self.timeout_s = max(pool.model.limits.timeout_s for pool in (first, then))

    async def rerank(
        self,
        request: RerankRequest,
        *,
        model: str,
        id: str,
        created: int,
        left_s: float = math.inf,
        admitted: Admitted | None = None,
    ) -> RerankResult:
        """The joined result. Raises RequestError, InvalidRequest for what is not a ranking.

        Both models let it in before the first one works, so that no work of that is in vain.
        """
        if not request.is_ranked:
            raise InvalidRequest(
                f"{self.name!r} is a cascade: its two models' scores cannot be compared, so it"
                " gives a ranking and no plain scores. POST `documents` to /v2/rerank, or name"
                f" {self.first.name!r} or {self.then.name!r}.",
                param="model",
            )
        to_first, to_then = (_fit(request._replace(top_n=None), pool, self) for pool in self.pools)
        self.first.check(to_first)
        # Before the first one's work, and with the request's own indices.
        checked = self.then.check(to_then, self.keep)
        names = Names(model=model, id=id, created=created)
        if not request.may_cut:  # nor by the second, which must be told with these indices too
            await self.then.check_whole(checked)
        some = checked._replace(passages=checked.passages[: self.keep])
        _, then_s = self.then.admission.takes_s(len(some.passages))
        with self.then.admit(some, left_s) as ticket:
            first = await self.first.rerank(
                to_first, **names, left_s=max(0.0, left_s - then_s), admitted=admitted
            )
            kept = rank(first.raw, self.keep)
            best = to_then._replace(passages=[request.passages[index] for index in kept])
            then = await self.then.rerank(best, **names, ticket=ticket)
        return join_stages(first, then, kept, request.top_n)

    @property
    def is_ready(self) -> bool:
        return self.first.is_ready and self.then.is_ready


def _fit(request: RerankRequest, pool: Pool, cascade: CascadePool) -> RerankRequest:
    """The request without an instruction where only the cascade's other model reads one."""
    if pool.model.template or not any(other.model.template for other in cascade.pools):
        return request
    options = {name: o for name, o in request.options.items() if name not in TEXT_OPTIONS}
    return request._replace(options=options)
