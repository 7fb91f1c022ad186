"""One model: what it lets in, how its texts are read, and the engines that score them."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from serve.admission import Admission, Ticket, check_size
from serve.dispatch import Dispatch
from serve.engine import options
from serve.events import Events
from serve.job import priority_of, size_of
from serve.reading import Reading
from serve.replica import Replica, unavailable
from serve.rerank import RawScores, RerankRequest, RerankResult, build_result
from serve.reuse import Reuse
from serve.spec import Model

if TYPE_CHECKING:
    from serve.shared_cache import SharedCache

Admitted = Callable[[], Awaitable[None]]


class Pool:
    """The replicas of one model, and what is known of how it reads."""

    def __init__(
        self,
        model: Model,
        replicas: Sequence[Replica],
        events: Events | None = None,
        shared: "SharedCache | None" = None,
    ) -> None:
        self.model = model
        self.replicas = replicas
        self.reading = Reading(model.max_model_len)
        self.dispatch = Dispatch(model.name, replicas, events=events)
        self._events = events or Events()
        most_bytes = int(model.cache.memory_mib * 1024 * 1024)
        self.reuse = Reuse(model.name, most_bytes, self._events, shared)
        self.admission = Admission(model.name, model.limits, self.dispatch.pace, self._events)

    @property
    def name(self) -> str:
        """The model's first name."""
        return self.model.name

    @property
    def timeout_s(self) -> float:
        """How long a request may take that names no time of its own."""
        return self.model.limits.timeout_s

    @property
    def requests(self) -> int:
        """Requests that are let in and not answered."""
        return self.admission.requests

    @property
    def waiting_pairs(self) -> int:
        """Pairs that are let in and at no engine yet."""
        return max(0, self.admission.pairs - sum(replica.pairs for replica in self.replicas))

    @property
    def waiting_bytes(self) -> int:
        """Memory of the texts that are let in."""
        return self.admission.size

    @property
    def rate(self) -> float:
        """Pairs per second that its engines do, by the last measurements; 0 when unknown."""
        return self.dispatch.pace.rate

    @property
    def is_ready(self) -> bool:
        """Whether it can score, or will in a moment."""
        return any(replica.is_expected for replica in self.replicas)

    async def rerank(
        self,
        request: RerankRequest,
        *,
        model: str,
        id: str,
        created: int,
        left_s: float = math.inf,
        admitted: Admitted | None = None,
        ticket: Ticket | None = None,
    ) -> RerankResult:
        """The result of a request that has `left_s` seconds: the caller ends it then. Raises
        RequestError.

        `admitted` is called when it is let in, and may raise RequestError. With a `ticket` of this
        model it is in already.
        """
        raw = await self.score(request, left_s, admitted, ticket)
        return build_result(
            request, raw, score=self.model.score, model=model, id=id, created=created
        )

    async def score(
        self,
        request: RerankRequest,
        left_s: float = math.inf,
        admitted: Admitted | None = None,
        ticket: Ticket | None = None,
    ) -> RawScores:
        """The raw values of the request's pairs; the rest is as for `rerank`."""
        request = self.check(request)
        if not request.passages:
            return RawScores([], 0)
        end = time.monotonic() + left_s

        async def fresh(some: RerankRequest) -> RawScores:
            nonlocal admitted
            with nullcontext(ticket) if ticket else self.admit(some, end - time.monotonic()) as own:
                if admitted is not None:
                    await admitted()
                    admitted = None
                return await self._score(some, own)

        if not request.may_cut and self.reading.needs_a_look(request):
            raw = await fresh(request)  # whole: an error names a passage by its place
        else:
            raw = await self.reuse.score(request, fresh)
        if admitted is not None:  # no engine was asked
            await admitted()
        return raw

    def admit(self, request: RerankRequest, left_s: float) -> Ticket:
        """Lets a request in. Raises Overloaded."""
        pairs, priority = len(request.passages), priority_of(request)
        return self.admission.admit(pairs, size_of(request), left_s, priority)

    async def _score(self, request: RerankRequest, ticket: Ticket) -> RawScores:
        """The raw values of a request that is let in, from the engines."""
        if not self.reading.needs_a_look(request):
            return await self.dispatch.score(request, ticket)
        raw = await self._read_and_score(request, ticket)
        if raw.cut:
            self._events.cut(self.name, len(raw.cut))
        return raw

    async def _read_and_score(self, request: RerankRequest, ticket: Ticket) -> RawScores:
        """The raw values of texts that must be looked at, and which pairs are cut."""
        neutral = await self.reading.neutral(request)
        if request.max_chunks > 1:
            return await self._score_parts(request, neutral, ticket)
        if not request.may_cut:
            await self.reading.refuse_cuts(neutral)
            return await self.dispatch.score(neutral, ticket)
        cutting = asyncio.create_task(self.reading.cut(neutral))
        try:
            raw = await self.dispatch.score(neutral, ticket)
            return raw._replace(cut=await cutting)
        finally:
            cutting.cancel()
            await asyncio.wait({cutting})

    async def _score_parts(
        self, request: RerankRequest, neutral: RerankRequest, ticket: Ticket
    ) -> RawScores:
        """The raw values of a request whose long passages are scored in parts."""
        split = await self.reading.split(request, neutral, self.model.limits.passages)
        more = len(split.request.passages) - len(request.passages)
        self.admission.grow(ticket, more, size_of(split.request) - size_of(request))
        return split.join(await self.dispatch.score(split.request, ticket))

    async def check_whole(self, request: RerankRequest) -> None:
        """Raises InvalidRequest unless every text would be read whole (in parts, where the request
        allows it).

        `request` is as `check` gives it. How many pairs it comes to is not looked at: of a cascade,
        the second model is sent but the best.
        """
        if not request.passages or not self.reading.needs_a_look(request):
            return
        neutral = await self.reading.neutral(request)
        if request.max_chunks > 1:
            most_pairs = len(request.passages) * request.max_chunks
            await self.reading.split(request, neutral, most_pairs)
        else:
            await self.reading.refuse_cuts(neutral)

    def check(self, request: RerankRequest, most: int | None = None) -> RerankRequest:
        """The request with all of vLLM's fields, if this model can take it now and is sent `most`
        of its passages. Raises RequestError."""
        if not self.is_ready:
            raise unavailable(self.name, self.replicas)
        fields = options(
            request,
            self.model,
            self.reading.max_model_len,
            # Where nobody can tell beforehand, the engine itself must refuse what is too long.
            may_cut=request.may_cut or self.reading.lengths is not None,
        )
        request = request._replace(options=fields)
        if request.passages:
            check_size(request, self.model.limits, most)
            self.reading.check(request)
        return request

    def close(self) -> None:
        """Closes the connections to the engines."""
        self.reading.close()
        for replica in self.replicas:
            replica.engine.close()
