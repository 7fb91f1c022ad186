"""Far more work than an engine can do: what is let in is answered in its time, and the engine does
nothing in vain. Engines of a fixed speed, so that what they can do is known."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.chaos.site import Measure, Site, expected, serving
from tests.chaos.traffic import Ask, Record, mix, steady, summarise, timeline

TIMEOUT_S = 5.0
TIMES = 20  # as many requests as can be answered


def closed(site: Site, asks: Iterator[Ask], *, clients: int, seconds: float) -> list[Record]:
    async def run() -> list[Record]:
        async with Load(site.server.url, expected, connections=clients) as load:
            return await load.closed_loop(asks, clients=clients, seconds=seconds)

    return asyncio.run(run())


def opened(site: Site, asks: Iterator[Ask], moments: list[float]) -> list[Record]:
    async def run() -> list[Record]:
        async with Load(site.server.url, expected, connections=2000) as load:
            return await load.open_loop(asks, moments)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [({10: 1.0}, 60), ({1: 10.0, 10: 10.0, 300: 1.0}, 30)],
    ids=["alike", "of all sizes"],
)
def test_overload(tmp_path: Path, record_property: Measure, sizes: dict[int, float], seconds: int):
    """Twenty times the requests that an engine of 200 pairs a second can answer."""
    with serving(tmp_path, FAKE_PAIR_S=0.005) as site:
        peak = summarise(closed(site, mix(sizes), clients=16, seconds=10))
        rate = TIMES * sum(peak.outcomes.values()) / peak.seconds
        asks = mix(sizes, timeout_s=TIMEOUT_S, seed=1)
        records = opened(site, asks, steady(rate, seconds))
        left = site.metric("rerank_admitted_requests")
    summary = summarise(records)
    words = f"at peak {peak}; at {TIMES} times that, {rate:.0f} requests/s: {summary}"
    by_size = {
        size: str(summarise([r for r in records if r.pairs == size]).outcomes) for size in sizes
    }
    record_property("measured", f"overload: {words}; {by_size}; {timeline(records, 5)}")
    assert set(peak.outcomes) == {"200"}
    assert set(summary.outcomes) == {"200", "429"} and not summary.wrong
    assert all(int(r.retry_after or 0) >= 1 for r in records if r.outcome == "429")
    assert summary.quantile(1) <= TIMEOUT_S
    assert summary.goodput >= 0.9 * peak.goodput
    assert left == 0
