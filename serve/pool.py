"""Which engine takes a request, and what is in flight."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from serve.engine import RETRY_AFTER_S, Engine, encode
from serve.errors import InvalidRequest, NotFound, Overloaded, TooLarge, Unavailable
from serve.rerank import RawScores, RerankRequest
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


def pick(replicas: Sequence[Replica]) -> Replica:
    """The ready replica with the fewest pairs in flight. Raises Unavailable when none is ready."""
    ready = [replica for replica in replicas if replica.is_ready]
    if ready:
        return min(ready, key=lambda replica: replica.pairs)
    phases = ", ".join(replica.progress.phase for replica in replicas)
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
    """The replicas of one model."""

    def __init__(self, model: Model, replicas: Sequence[Replica]) -> None:
        self.model = model
        self.replicas = replicas

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self.replicas)

    @property
    def pairs(self) -> int:
        """Pairs in flight in all replicas."""
        return sum(replica.pairs for replica in self.replicas)

    async def score(self, request: RerankRequest) -> RawScores:
        """The raw values of the request's pairs. Raises RequestError."""
        pairs = len(request.passages)
        if not pairs:
            pick(self.replicas)  # so that the server's state is told all the same
            return RawScores([], 0)
        check_size(request, self.model.limits)
        body = encode(request, self.model)
        with self._admitted(pairs) as replica:
            return await replica.engine.score(body, pairs, timeout_s=self.model.limits.timeout_s)

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


def choose(pools: Sequence[Pool], *, model: str | None, use_llm: bool) -> Pool:
    """The pool that a request means: by the model's name, by `use_llm`, or the first.

    Raises NotFound for a name that nobody has, InvalidRequest for `use_llm` without an LLM.
    """
    if model:
        for pool in pools:
            if model.lower() in (name.lower() for name in pool.model.names):
                if use_llm and not pool.model.llm:
                    raise InvalidRequest(
                        f"use_llm is true, but {model!r} is no LLM reranker: send one of the two.",
                        param="use_llm",
                    )
                return pool
        served = ", ".join(name for pool in pools for name in pool.model.names)
        raise NotFound(f"There is no model {model!r} here; served: {served}.", param="model")
    if not use_llm:
        return pools[0]
    for pool in pools:
        if pool.model.llm:
            return pool
    raise InvalidRequest(
        "use_llm is true, but no LLM reranker is configured: start the server with one, for"
        " example `make serve MODEL=bge-reranker-v2-gemma` (it needs a GPU), or send false.",
        param="use_llm",
    )
