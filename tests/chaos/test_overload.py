"""Far more work than an engine can do: what is let in is answered in its time, and the engine does
nothing in vain. Engines of a fixed speed, so that what they can do is known."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.chaos.site import Clients, Measure, Site, expected, serving
from tests.chaos.traffic import Ask, Record, mix, steady, summarise
from tests.harness import wait_until

pytestmark = pytest.mark.alone

TIMEOUT_S = 5.0


def closed(site: Site, asks: Iterator[Ask], *, clients: int, seconds: float) -> list[Record]:
    async def run() -> list[Record]:
        async with Load(site.server.url, expected, connections=clients) as load:
            return await load.closed_loop(asks, clients=clients, seconds=seconds)

    return asyncio.run(run())


def opened(site: Site, asks: Iterator[Ask], moments: Sequence[float]) -> list[Record]:
    async def run() -> list[Record]:
        async with Load(site.server.url, expected, connections=2000) as load:
            return await load.open_loop(asks, moments)

    return asyncio.run(run())


@dataclass(frozen=True)
class Storm:
    """Requests: passages → how often; so many times what can be answered."""

    name: str
    sizes: Mapping[int, float]
    times: float
    seconds: float


STORMS = (
    Storm("alike", {10: 1}, times=20, seconds=60),
    Storm("of all sizes", {1: 10, 10: 10, 300: 1}, times=20, seconds=10),
    Storm("large ones among small ones", {16: 20, 400: 1}, times=2, seconds=15),
)


@pytest.mark.parametrize("storm", STORMS, ids=lambda storm: storm.name)
def test_overload(tmp_path: Path, record_property: Measure, storm: Storm):
    """An engine of 200 pairs a second."""
    with serving(tmp_path, FAKE_PAIR_S=0.005) as site:
        peak = summarise(closed(site, mix(storm.sizes), clients=16, seconds=10))
        rate = storm.times * sum(peak.outcomes.values()) / peak.seconds
        asks = mix(storm.sizes, timeout_s=TIMEOUT_S, seed=1)
        records = opened(site, asks, steady(rate, storm.seconds))
        left = site.metric("rerank_admitted_requests")
    summary = summarise(records)
    sizes = {
        size: dict(summarise([record for record in records if record.pairs == size]).outcomes)
        for size in storm.sizes
    }
    words = f"peak {peak}; {storm.times:g} times that, {rate:.0f} requests/s: {summary}; {sizes}"
    record_property("measured", f"overload, requests {storm.name}: {words}")
    assert set(peak.outcomes) == {"200"}
    assert set(summary.outcomes) == {"200", "429"} and not summary.wrong, words
    assert all(int(r.retry_after or 0) >= 1 for r in records if r.outcome == "429")
    assert summary.quantile(1) <= TIMEOUT_S
    assert summary.goodput >= 0.9 * peak.goodput
    assert left == 0


def test_a_large_request_holds_up_no_small_one(tmp_path: Path, record_property: Measure):
    """It is 10 s of work; a turn is 0.05 s, of which the engine has two."""
    with serving(tmp_path, FAKE_PAIR_S=0.001) as site, ThreadPoolExecutor(1) as threads:
        closed(site, mix({100: 1}), clients=2, seconds=2)  # so that its pace is known
        alone = summarise(closed(site, mix({4: 1}), clients=1, seconds=3))
        begin = time.monotonic()
        asking = threads.submit(opened, site, mix({10_000: 1}), [0.0])
        wait_until(lambda: site.metric("rerank_admitted_requests"), 20)
        with Clients(site.server.url, mix({4: 1}), number=3, pause_s=0.1) as clients:
            (large,) = asking.result()
        took_s = time.monotonic() - begin
    beside = clients.summary()
    words = f"p95 {alone.quantile(0.95):.3f} s alone, {beside.quantile(0.95):.3f} s beside it"
    record_property("measured", f"4 passages and 10,000: {words}, which took {took_s:.1f} s")
    assert (large.outcome, large.is_wrong) == ("200", False)
    assert clients.failures() == [] and len(clients.records) > 50
    assert beside.quantile(0.95) < 1
    assert took_s < 20


def test_the_pace_is_not_overrated_where_nothing_waits(tmp_path: Path, record_property: Measure):
    """Answers that come together are no proof of speed. Two engines of 200 pairs a second each."""
    with serving(tmp_path, replicas=2, FAKE_PAIR_S=0.005) as site:
        closed(site, mix({10: 1}), clients=20, seconds=3)
        busy = site.metric("rerank_drain_pairs_per_second")
        closed(site, mix({10: 1}), clients=2, seconds=6)
        quiet = site.metric("rerank_drain_pairs_per_second")
    record_property("measured", f"400 pairs/s taken for {busy:.0f} when full, {quiet:.0f} when not")
    assert 300 < busy < 500
    assert 300 < quiet < 600
