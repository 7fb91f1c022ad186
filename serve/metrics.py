"""What Prometheus is told of what has happened: requests, pairs, waits, turns, deaths."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from serve import __version__
from serve.errors import QuotaExceeded
from serve.events import DEATHS, MOVED, REUSED, SHED, Events
from serve.exchange import CURRENT, Exchange
from serve.gauges import Gauges, Load
from serve.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
WAIT_BUCKETS_S = (0.001, *LATENCY_BUCKETS_S)
QUOTA = "quota"  # beside the reasons of SHED: the key has used up its own

Kind = TypeVar("Kind", Counter, Histogram)


class _Children(dict[tuple[object, ...], Kind]):
    """A metric's children by their labels, which the metric itself is slow to find."""

    def __init__(self, metric: Kind) -> None:
        super().__init__()
        self._find: Callable[..., Kind] = metric.labels

    def __missing__(self, labels: tuple[object, ...]) -> Kind:
        child = self[labels] = self._find(*labels)
        return child


class Metrics(Events):
    """One registry, made for one gateway. No label's value is a client's own words."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("rerank_build", "This program.", registry=self._registry).info(
            {"version": __version__}
        )
        self._requests = self._counter(
            "rerank_requests", "Scoring requests answered.", "dialect", "model", "status"
        )
        self._others = self._counter(
            "rerank_other_requests",
            "Requests answered on routes that score nothing, or refused before their route.",
            "status",
        )
        self._pairs = self._counter("rerank_pairs", "Pairs scored.", "dialect", "model")
        self._key_requests = self._counter(
            "rerank_key_requests", "Scoring requests answered, by the name of their key.", "key"
        )
        self._key_pairs = self._counter(
            "rerank_key_pairs", "Pairs scored, by the name of the request's key.", "key"
        )
        words = "From the request's headers to the answer's last byte."
        self._seconds = self._histogram("rerank_request_seconds", words, "dialect", "model")
        self._watch_events()

    def _watch_events(self) -> None:
        words = "From a request's admission to its first pairs at an engine."
        self._waits = self._histogram("rerank_wait_seconds", words, "model", buckets=WAIT_BUCKETS_S)
        engine = ("model", "replica")
        words = "An engine's time for a turn: some pairs of one request."
        self._engine_seconds = self._histogram("rerank_engine_seconds", words, *engine)
        self._turns = self._counter(
            "rerank_engine_turns", "Turns by what became of them.", *engine, "outcome"
        )
        self._moved = self._counter(
            "rerank_moved_turns", "Turns given to another replica.", "model", "reason"
        )
        self._shed = self._counter(
            "rerank_shed_requests", "Requests refused for want of room or time.", "model", "reason"
        )
        self._cut = self._counter(
            "rerank_truncated_passages", "Passages that were not read whole.", "model"
        )
        self._reused = self._counter(
            "rerank_reused_pairs", "Pairs whose scores were known.", "model", "how"
        )
        words = "Failures of the cache that servers share."
        self._failures = Counter("rerank_shared_cache_failures", words, registry=self._registry)
        self._deaths = self._counter(
            "rerank_engine_deaths", "Engines that ended unasked.", *engine, "reason"
        )

    def _counter(self, name: str, words: str, *labels: str) -> _Children[Counter]:
        return _Children(Counter(name, words, labels, registry=self._registry))

    def _histogram(
        self, name: str, words: str, *labels: str, buckets: Sequence[float] = LATENCY_BUCKETS_S
    ) -> _Children[Histogram]:
        metric = Histogram(name, words, labels, buckets=buckets, registry=self._registry)
        return _Children(metric)

    def watch(self, pools: Sequence[Pool], load: Load) -> None:
        """Tells of these from now on. What may happen to them is there with 0 before it does:
        Prometheus sees no increase in a series that begins with 1."""
        self._registry.register(Gauges(pools, load))
        _ = self._shed["", QUOTA]  # requests are charged before their model is known
        for pool in pools:
            model = pool.name
            _ = self._waits[model,], self._cut[model,]
            _ = [self._shed[model, reason] for reason in (*SHED, QUOTA)]
            _ = [self._moved[model, reason] for reason in MOVED]
            _ = [self._reused[model, how] for how in REUSED]
            for replica in map(str, range(len(pool.replicas))):
                _ = self._engine_seconds[model, replica], self._turns[model, replica, "ok"]
                _ = [self._deaths[model, replica, reason] for reason in DEATHS]

    def render(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    # -- requests ----------------------------------------------------------------------------------

    def answered(self, exchange: Exchange, status: int) -> None:
        """One request, answered."""
        if exchange.dialect is None:
            return self._others[status,].inc()
        dialect, model = exchange.dialect.name, exchange.model or ""
        self._requests[dialect, model, status].inc()
        self._seconds[dialect, model].observe(time.monotonic() - exchange.started)
        if exchange.error == QuotaExceeded.code:
            self._shed[model, QUOTA].inc()
        if exchange.key is not None:
            self._key_requests[exchange.key.name,].inc()

    def scored(self, exchange: Exchange) -> None:
        """The pairs of one request, scored."""
        dialect = exchange.dialect.name if exchange.dialect else ""
        self._pairs[dialect, exchange.model or ""].inc(exchange.pairs)
        if exchange.key is not None:
            self._key_pairs[exchange.key.name,].inc(exchange.pairs)

    # -- events ------------------------------------------------------------------------------------

    def waited(self, model: str, seconds: float) -> None:
        self._waits[model,].observe(seconds)
        exchange = CURRENT.get()
        if exchange is not None:
            exchange.waited += seconds

    def engine_answered(self, model: str, replica: int, seconds: float, outcome: str) -> None:
        self._engine_seconds[model, str(replica)].observe(seconds)
        self._turns[model, str(replica), outcome].inc()

    def moved(self, model: str, reason: str) -> None:
        self._moved[model, reason].inc()

    def shed(self, model: str, reason: str) -> None:
        self._shed[model, reason].inc()

    def reused(self, model: str, how: str, pairs: int) -> None:
        self._reused[model, how].inc(pairs)

    def shared_cache_failed(self) -> None:
        self._failures.inc()

    def cut(self, model: str, passages: int) -> None:
        self._cut[model,].inc(passages)

    def died(self, model: str, replica: int, reason: str) -> None:
        self._deaths[model, str(replica), reason].inc()
