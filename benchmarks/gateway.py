"""What the gateway costs: against vLLM itself, and alone over an engine that takes no time."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.load import Sample, Target, merged, quartiles, side_by_side
from tests.harness import Server, write_config

Row = dict[str, object]
READY_S = 300


def targets(server: Server) -> Sequence[Target]:
    """The gateway, and its engine without the gateway: the same process, the same route."""
    socket = next(server.run_dir.glob("*/engine-0-*/http.sock"))
    return Target("gateway", server.url), Target("direct", "http://engine", str(socket))


def over_vllm(seconds: float = 2.5, rounds: int = 16) -> list[Row]:
    """The gateway against direct vLLM with the embedded model: throughput and added latency."""
    with tempfile.TemporaryDirectory() as work, Server("minilm", Path(work), vllm=None) as server:
        server.until_ready(READY_S)
        both = targets(server)
        rows = []
        for clients in (1, 8):
            for passages in (4, 64):
                slow = 4 if passages > 4 else 1  # a round of long requests needs more time
                samples = asyncio.run(
                    side_by_side(
                        both,
                        clients=clients,
                        passages=passages,
                        seconds=seconds * slow,
                        rounds=rounds // slow,
                    )
                )
                rows.append(_compare(samples, clients, passages))
        return rows


def _compare(samples: Mapping[str, list[Sample]], clients: int, passages: int) -> Row:
    ours, theirs = merged(samples["gateway"]), merged(samples["direct"])
    return {
        "clients": clients,
        "passages": passages,
        "gateway req/s": round(ours.rate, 1),
        "direct req/s": round(theirs.rate, 1),
        "throughput ratio": round(ours.rate / theirs.rate, 3),
        "quartiles of rounds": "/".join(
            f"{x:.3f}" for x in quartiles(samples["gateway"], samples["direct"])
        ),
        "p50 ms": round(ours.quantile(0.5), 2),
        "added p50 ms": round(ours.quantile(0.5) - theirs.quantile(0.5), 2),
        "added p99 ms": round(ours.quantile(0.99) - theirs.quantile(0.99), 2),
    }


def over_nothing(seconds: float = 4.0, rounds: int = 3) -> list[Row]:
    """The gateway over the fake engine: what its own work comes to, per request and per core.

    `req/s per core` is requests over the gateway process's CPU time: what one core could answer
    if nothing else ran on it. Latency is added to the fake engine's own, at one client.
    """
    with tempfile.TemporaryDirectory() as work:
        config = write_config(Path(work))
        with Server(config, Path(work)) as server:
            server.until_ready()
            return [_own_cost(server, passages, seconds, rounds) for passages in (4, 100)]


def _own_cost(server: Server, passages: int, seconds: float, rounds: int) -> Row:
    process = psutil.Process(server.process.pid)
    both = targets(server)
    one = asyncio.run(
        side_by_side(both, clients=1, passages=passages, seconds=seconds, rounds=rounds)
    )
    before = sum(process.cpu_times()[:2])
    many = merged(
        asyncio.run(
            side_by_side(both[:1], clients=8, passages=passages, seconds=seconds, rounds=rounds)
        )["gateway"]
    )
    # The warm-up's requests are in the CPU time and not in the count: the figure errs downwards.
    spent = sum(process.cpu_times()[:2]) - before
    ours, theirs = merged(one["gateway"]), merged(one["direct"])
    return {
        "passages": passages,
        "req/s per core": round(len(many.latencies) / spent),
        "req/s, 8 clients": round(many.rate),
        "CPU ms/req": round(1000 * spent / len(many.latencies), 3),
        "added p50 ms": round(ours.quantile(0.5) - theirs.quantile(0.5), 3),
        "added p99 ms": round(ours.quantile(0.99) - theirs.quantile(0.99), 3),
    }
