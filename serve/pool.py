"""One model's engines: which of them takes a request, and what is in flight."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from serve.engine import RETRY_AFTER_S, TOO_SLOW, Engine, encode, options
from serve.errors import DeadlineExceeded, Overloaded, TooLarge, Unavailable
from serve.reading import Reading
from serve.rerank import RawScores, RerankRequest, RerankResult, build_result
from serve.spec import Limits, Model
from serve.vllm_log import Progress


@dataclass
class Replica:
    """One engine process, as the supervisor sees it and as requests load it."""

    engine: Engine
    progress: Progress = field(default_factory=lambda: Progress("starting"))
    since: float = 0.0  # when the phase began, seconds on the supervisor's clock
    restarts: int = 0
    pairs: int = 0  # in flight

    @property
    def is_ready(self) -> bool:
        return self.progress.phase == "ready"


def pick(name: str, replicas: Sequence[Replica]) -> Replica:
    """The ready replica of the model `name` with the fewest pairs in flight.

    Raises Unavailable when none is ready.
    """
    ready = [replica for replica in replicas if replica.is_ready]
    if ready:
        return min(ready, key=lambda replica: replica.pairs)
    phases = ", ".join(replica.progress.phase for replica in replicas)
    if all(replica.progress.phase == "failed" for replica in replicas):
        raise Unavailable(
            f"The model {name!r} failed and will not come back by itself: the server's log says"
            " why; restart the server when that is mended, or ask another of its models."
        )
    raise Unavailable(
        f"The model {name!r} is not ready ({phases}): try again; /health/ready says when.",
        retry_after=RETRY_AFTER_S,
    )


def check_size(request: RerankRequest, limits: Limits, most: int | None = None) -> None:
    """Raises TooLarge, naming the limit, when the request, or `most` of its passages, is more than
    one may ask for."""
    query, passages = request.fields
    if len(request.passages[:most]) > limits.passages:
        raise TooLarge(
            f"{passages} has {len(request.passages)} texts and the limit is {limits.passages}: send"
            " them in several requests, or raise `limits: {passages: …}`.",
            param=passages,
        )
    for name, texts in ((query, request.queries), (passages, request.passages)):
        longest = max(range(len(texts)), key=lambda index: len(texts[index]))
        if len(texts[longest]) > limits.text_chars:
            is_alone = name == query and len(texts) == 1
            where = name if is_alone else f"{name}[{longest}]"
            raise TooLarge(
                f"{where} has {len(texts[longest])} characters and the limit is"
                f" {limits.text_chars}: shorten it, or raise `limits: {{text_chars: …}}`.",
                param=where,
            )


@asynccontextmanager
async def _deadline(timeout_s: float) -> AsyncIterator[None]:
    """Ends its block after `timeout_s` seconds, with DeadlineExceeded."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(TOO_SLOW) from error


class Pool:
    """The replicas of one model, and what is known of how it reads."""

    def __init__(self, model: Model, replicas: Sequence[Replica]) -> None:
        self.model = model
        self.replicas = replicas
        self.reading = Reading(model.max_model_len)

    @property
    def name(self) -> str:
        """The model's first name."""
        return self.model.name

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self.replicas)

    @property
    def pairs(self) -> int:
        """Pairs in flight in all replicas."""
        return sum(replica.pairs for replica in self.replicas)

    async def rerank(
        self,
        request: RerankRequest,
        *,
        model: str,
        id: str,
        created: int,
        timeout_s: float | None = None,
    ) -> RerankResult:
        """The result of a request. Raises RequestError."""
        raw = await self.score(request, timeout_s)
        return build_result(
            request, raw, score=self.model.score, model=model, id=id, created=created
        )

    async def score(self, request: RerankRequest, timeout_s: float | None = None) -> RawScores:
        """The raw values of the request's pairs, within `timeout_s` seconds (unset: the model's
        own limit). Raises RequestError."""
        request = self.check(request)
        if not request.passages:
            return RawScores([], 0)
        timeout_s = timeout_s or self.model.limits.timeout_s
        with self._admitted(len(request.passages)) as replica:
            if not self.reading.needs_a_look(request):
                return await self._score_texts(request, replica, timeout_s)
            async with _deadline(timeout_s):
                return await self._read_and_score(request, replica, timeout_s)

    async def _read_and_score(
        self, request: RerankRequest, replica: Replica, timeout_s: float
    ) -> RawScores:
        """The raw values of texts that must be looked at, and which pairs are cut."""
        neutral = await self.reading.neutral(request)
        if request.max_chunks > 1:
            return await self._score_parts(request, neutral, replica, timeout_s)
        if not request.may_cut:
            await self.reading.refuse_cuts(neutral)
            return await self._score_texts(neutral, replica, timeout_s)
        cutting = asyncio.create_task(self.reading.cut(neutral))
        try:
            raw = await self._score_texts(neutral, replica, timeout_s)
            return replace(raw, cut=await cutting)
        finally:
            cutting.cancel()
            await asyncio.wait({cutting})

    async def _score_parts(
        self, request: RerankRequest, neutral: RerankRequest, replica: Replica, timeout_s: float
    ) -> RawScores:
        """The raw values of a request whose long passages are scored in parts."""
        split = await self.reading.split(request, neutral, self.model.limits.passages)
        own = len(request.passages)
        with self._admitted(len(split.request.passages) - own, own=own, replica=replica):
            return split.join(await self._score_texts(split.request, replica, timeout_s))

    async def _score_texts(
        self, request: RerankRequest, replica: Replica, timeout_s: float
    ) -> RawScores:
        """The engine's answer for texts that are ready for it."""
        pairs = len(request.passages)
        return await replica.engine.score(encode(request), pairs, timeout_s=timeout_s)

    async def check_whole(self, request: RerankRequest, timeout_s: float) -> None:
        """Raises InvalidRequest unless every text would be read whole (in parts, where the request
        allows it), DeadlineExceeded when that takes more than `timeout_s` seconds.

        `request` is as `check` gives it. How many pairs it comes to is not looked at: of a cascade,
        the second model is sent but the best.
        """
        if not request.passages or not self.reading.needs_a_look(request):
            return
        async with _deadline(timeout_s):
            neutral = await self.reading.neutral(request)
            if request.max_chunks > 1:
                most_pairs = len(request.passages) * request.max_chunks
                await self.reading.split(request, neutral, most_pairs)
            else:
                await self.reading.refuse_cuts(neutral)

    def check(self, request: RerankRequest, most: int | None = None) -> RerankRequest:
        """The request with all of vLLM's fields, if this model can take it now and is sent `most`
        of its passages. Raises RequestError."""
        pick(self.name, self.replicas)
        fields = options(
            request,
            self.model,
            self.reading.max_model_len,
            # Where nobody can tell beforehand, the engine itself must refuse what is too long.
            may_cut=request.may_cut or self.reading.lengths is not None,
        )
        request = replace(request, options=fields)
        if request.passages:
            check_size(request, self.model.limits, most)
            self.reading.check(request)
        return request

    def close(self) -> None:
        """Closes the connections to the engines."""
        self.reading.close()
        for replica in self.replicas:
            replica.engine.close()

    @contextmanager
    def _admitted(
        self, pairs: int, *, own: int = 0, replica: Replica | None = None
    ) -> Iterator[Replica]:
        """A replica that counts `pairs` as in flight for as long as the block runs; or the given
        one, by a request that has `own` in flight already."""
        replica = replica or pick(self.name, self.replicas)
        most = self.model.limits.pairs_in_flight
        others = self.pairs - own
        if others and self.pairs + pairs > most:  # an idle pool takes whatever is allowed
            raise Overloaded(
                f"{others} pairs are in flight and the limit is {most}: try again, or raise"
                " `limits: {pairs_in_flight: …}`.",
                retry_after=RETRY_AFTER_S,
            )
        replica.pairs += pairs
        try:
            yield replica
        finally:
            replica.pairs -= pairs
