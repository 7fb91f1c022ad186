"""What Prometheus is told of the moment: requests in flight, each queue, each engine."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.pool import Pool


class Load(Protocol):
    """What the gateway is asked when Prometheus asks."""

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more of them."""


_POOLS: Sequence[tuple[str, str, Callable[[Pool], float]]] = (
    ("rerank_waiting_pairs", "Pairs let in, at no engine yet.", lambda pool: pool.waiting_pairs),
    (
        "rerank_pairs_limit",
        "Pairs that may be in flight before requests are shed.",
        lambda pool: pool.model.limits.pairs_in_flight,
    ),
    ("rerank_bytes_in_flight", "Of the texts let in.", lambda pool: pool.waiting_bytes),
    (
        "rerank_bytes_limit",
        "Bytes that may be in flight before requests are shed.",
        lambda pool: pool.model.limits.bytes_in_flight,
    ),
    (
        "rerank_admitted_requests",
        "Requests let in and not answered.",
        lambda pool: pool.requests,
    ),
    (
        "rerank_drain_pairs_per_second",
        "How fast the engines work the queue off; 0 when not known.",
        lambda pool: pool.rate,
    ),
    ("rerank_cached_pairs", "Pairs whose scores are known.", lambda pool: pool.reuse.pairs),
    (
        "rerank_timeout_seconds",
        "What a request may take in all.",
        lambda pool: pool.model.limits.timeout_s,
    ),
)


class Gauges(Collector):
    """Reads the pools and the gateway when Prometheus asks, so that nothing is counted twice."""

    def __init__(self, pools: Sequence[Pool], load: Load) -> None:
        self._pools = pools
        self._load = load

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "rerank_requests_in_flight", "On all routes.", value=self._load.in_flight
        )
        draining = float(self._load.is_draining)
        yield GaugeMetricFamily("rerank_draining", "1 while it stops.", value=draining)
        yield from self._of_pools()
        yield from self._of_engines()

    def _of_pools(self) -> Iterable[Metric]:
        for name, words, read in _POOLS:
            family = GaugeMetricFamily(name, words, labels=("model",))
            for pool in self._pools:
                family.add_metric((pool.name,), read(pool))
            yield family

    def _of_engines(self) -> Iterable[Metric]:
        labels = ("model", "replica")
        ready = GaugeMetricFamily("rerank_engine_ready", "1 when it answers.", labels=labels)
        sick = GaugeMetricFamily("rerank_engine_sick", "1 while it gets no work.", labels=labels)
        pairs = GaugeMetricFamily("rerank_pairs_in_flight", "Pairs at the engine.", labels=labels)
        restarts = CounterMetricFamily(
            "rerank_engine_restarts", "Since the server's start.", labels=labels
        )
        for pool in self._pools:
            for index, replica in enumerate(pool.replicas):
                key = (pool.name, str(index))
                ready.add_metric(key, float(replica.is_ready))
                sick.add_metric(key, float(replica.is_sick))
                pairs.add_metric(key, replica.pairs)
                restarts.add_metric(key, replica.restarts)
        return (ready, sick, pairs, restarts)
