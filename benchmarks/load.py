"""A closed loop of clients against one address, and what it measures."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import orjson

WORDS = (
    "deep learning network layer gradient model query passage rank score search engine index token"
    " weather river bread oven mountain city train music paper light colour number table window"
).split()
WORDS_PER_PASSAGE = 60


@dataclass(frozen=True)
class Target:
    """Where requests go: a base URL, and the Unix socket under it if there is one."""

    name: str
    url: str
    socket: str | None = None

    def connector(self) -> aiohttp.BaseConnector:
        if self.socket:
            return aiohttp.UnixConnector(path=self.socket, limit=0)
        return aiohttp.TCPConnector(limit=0)


@dataclass(frozen=True)
class Sample:
    """Latencies in seconds of the requests that one run finished, and how long it took."""

    latencies: Sequence[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency, in milliseconds, that `share` (0..1) of the requests stayed below."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def merged(samples: Sequence[Sample]) -> Sample:
    """Several runs as one."""
    latencies = [latency for sample in samples for latency in sample.latencies]
    return Sample(latencies, sum(sample.seconds for sample in samples))


def body(source: random.Random, passages: int, words: int = WORDS_PER_PASSAGE) -> bytes:
    """A score body whose texts nobody has sent before, so that no cache can help."""
    return orjson.dumps(
        {
            "queries": _text(source, 8),
            "documents": [_text(source, words) for _ in range(passages)],
        }
    )


def _text(source: random.Random, words: int) -> str:
    return " ".join((*source.choices(WORDS, k=words), str(source.getrandbits(32))))


async def closed_loop(
    target: Target, *, clients: int, passages: int, seconds: float, seed: int
) -> Sample:
    """`clients` that each send the next request once the last is answered, for `seconds`."""
    source = random.Random(seed)
    latencies: list[float] = []
    async with aiohttp.ClientSession(connector=target.connector()) as http:
        begin = time.perf_counter()
        end = begin + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                latencies.append(await _ask(http, target.url, body(source, passages)))

        await asyncio.gather(*(client() for _ in range(clients)))
        return Sample(latencies, time.perf_counter() - begin)


async def _ask(http: aiohttp.ClientSession, url: str, data: bytes) -> float:
    """One request's latency in seconds. An answer that is not 200 ends the measurement."""
    begin = time.perf_counter()
    headers = {"content-type": "application/json"}
    async with http.post(url + "/score", data=data, headers=headers) as answer:
        content = await answer.read()
    latency = time.perf_counter() - begin
    if answer.status != 200:
        raise RuntimeError(f"{url}: status {answer.status}: {content[:200]!r}")
    return latency


async def side_by_side(
    targets: Sequence[Target], *, clients: int, passages: int, seconds: float, rounds: int
) -> dict[str, list[Sample]]:
    """Each target in turn, `rounds` times, after a short warm-up of each.

    Many short rounds, so that both targets see the same drift of a shared machine.
    """
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for number in range(-1, rounds):
        for target in targets:
            sample = await closed_loop(
                target,
                clients=clients,
                passages=passages,
                seconds=seconds if number >= 0 else 1.0,
                seed=hash((number, target.name)),
            )
            if number >= 0:
                samples[target.name].append(sample)
    return samples


def quartiles(a: Sequence[Sample], b: Sequence[Sample]) -> tuple[float, float, float]:
    """Of a's rate over b's, round by round: the lower quartile, the median and the upper one."""
    ratios = [x.rate / y.rate for x, y in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return low, middle, high
