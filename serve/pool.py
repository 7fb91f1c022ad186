"""One model's engines: which of them takes a request, and what is in flight."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from serve.engine import RETRY_AFTER_S, Engine, encode, options
from serve.errors import Overloaded, TooLarge, Unavailable
from serve.rerank import RawScores, RerankRequest, RerankResult, build_result
from serve.spec import Limits, Model
from serve.tokens import USUAL_SPECIALS, Lengths, Specials, TokenLimits
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


def pick(replicas: Sequence[Replica]) -> Replica:
    """The ready replica with the fewest pairs in flight. Raises Unavailable when none is ready."""
    ready = [replica for replica in replicas if replica.is_ready]
    if ready:
        return min(ready, key=lambda replica: replica.pairs)
    phases = ", ".join(replica.progress.phase for replica in replicas)
    if all(replica.progress.phase == "failed" for replica in replicas):
        raise Unavailable(
            "The model failed and will not come back by itself: the server's log says why; restart"
            " the server when that is mended, or ask another of its models (GET /v1/models)."
        )
    raise Unavailable(
        f"The model is not ready ({phases}): try again; /health/ready says when.",
        retry_after=RETRY_AFTER_S,
    )


def check_size(request: RerankRequest, limits: Limits) -> None:
    """Raises TooLarge, naming the limit, when the request is more than one may ask for."""
    query, passages = request.fields
    if len(request.passages) > limits.passages:
        raise TooLarge(
            f"{passages} has {len(request.passages)} texts and the limit is {limits.passages}: send"
            " them in several requests, or raise `limits: {passages: …}`.",
            param=passages,
        )
    for name, texts in ((query, request.queries), (passages, request.passages)):
        longest = max(range(len(texts)), key=lambda index: len(texts[index]))
        if len(texts[longest]) > limits.text_chars:
            raise TooLarge(
                f"{name}[{longest}] has {len(texts[longest])} characters and the limit is"
                f" {limits.text_chars}: shorten it, or raise `limits: {{text_chars: …}}`.",
                param=f"{name}[{longest}]",
            )


class Pool:
    """The replicas of one model, and what is known of how it reads."""

    def __init__(self, model: Model, replicas: Sequence[Replica]) -> None:
        self.model = model
        self.replicas = replicas
        self.specials = Specials(USUAL_SPECIALS)
        self.lengths: Lengths | None = None  # until the tokenizer is known
        self.max_model_len = model.max_model_len

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
        self, request: RerankRequest, *, model: str, id: str, created: int
    ) -> RerankResult:
        """The result of a request. Raises RequestError."""
        raw = await self.score(request)
        return build_result(
            request, raw, score=self.model.score, model=model, id=id, created=created
        )

    async def score(self, request: RerankRequest) -> RawScores:
        """The raw values of the request's pairs. Raises RequestError."""
        pairs = len(request.passages)
        if not pairs:
            pick(self.replicas)  # so that the server's state is told all the same
            return RawScores([], 0)
        check_size(request, self.model.limits)
        request = self.specials.neutral_request(request)
        fields = options(request, self.model)
        body = encode(request, fields)
        with self._admitted(pairs) as replica:
            counting = self._start_counting(request, fields)
            timeout_s = self.model.limits.timeout_s
            try:
                raw = await replica.engine.score(body, pairs, timeout_s=timeout_s)
                return replace(raw, cut=await counting) if counting else raw
            finally:
                if counting:
                    counting.cancel()

    def _start_counting(
        self, request: RerankRequest, fields: Mapping[str, object]
    ) -> "asyncio.Future[list[int]] | None":
        """Finds the pairs that are cut, beside the scoring, when there may be any."""
        if self.lengths is None:
            return None
        limits = TokenLimits.of(fields, self.max_model_len)
        suspects = self.lengths.suspects(request, limits)
        if not suspects:
            return None
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self.lengths.cut, request, suspects, limits)

    def close(self) -> None:
        """Closes the connections to the engines."""
        for replica in self.replicas:
            replica.engine.close()

    @contextmanager
    def _admitted(self, pairs: int) -> Iterator[Replica]:
        """A replica that counts `pairs` as in flight for as long as the block runs."""
        replica = pick(self.replicas)
        most = self.model.limits.pairs_in_flight
        if self.pairs and self.pairs + pairs > most:  # an idle pool takes whatever is allowed
            raise Overloaded(
                f"{self.pairs} pairs are in flight and the limit is {most}: try again, or raise"
                " `limits: {pairs_in_flight: …}`.",
                retry_after=RETRY_AFTER_S,
            )
        replica.pairs += pairs
        try:
            yield replica
        finally:
            replica.pairs -= pairs
