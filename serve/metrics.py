"""What Prometheus is told: requests, pairs, latency, and the state of each engine."""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.exchange import Exchange
from serve.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry, made for one gateway."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(pools))
        self._requests = Counter(
            "rerank_requests",
            "Scoring requests answered.",
            ("dialect", "status"),
            registry=self._registry,
        )
        self._pairs = Counter("rerank_pairs", "Pairs scored.", ("model",), registry=self._registry)
        self._seconds = Histogram(
            "rerank_request_seconds",
            "From the request's headers to the answer's last byte.",
            ("dialect",),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )

    def answered(self, exchange: Exchange, status: int) -> None:
        """One request, answered. Those that score are counted."""
        if exchange.dialect is None:
            return
        self._requests.labels(exchange.dialect.name, str(status)).inc()
        self._seconds.labels(exchange.dialect.name).observe(time.monotonic() - exchange.started)

    def scored(self, model: str, pairs: int) -> None:
        """Pairs that an engine scored."""
        self._pairs.labels(model).inc(pairs)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Engines(Collector):
    """Reads the pools when Prometheus asks, so that nothing is counted twice."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        labels = ("model", "replica")
        ready = GaugeMetricFamily("rerank_engine_ready", "1 when it answers.", labels=labels)
        pairs = GaugeMetricFamily("rerank_pairs_in_flight", "Pairs at the engine.", labels=labels)
        restarts = GaugeMetricFamily("rerank_engine_restarts", "Since the start.", labels=labels)
        for pool in self._pools:
            for index, replica in enumerate(pool.replicas):
                key = (pool.model.name, str(index))
                ready.add_metric(key, float(replica.is_ready))
                pairs.add_metric(key, replica.pairs)
                restarts.add_metric(key, replica.restarts)
        return (ready, pairs, restarts)
