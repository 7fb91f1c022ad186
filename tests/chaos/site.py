"""The whole server over fake engines, for tests of what may befall it: its load, its processes."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serve.rerank import sigmoids
from tests.chaos.load import Load
from tests.chaos.traffic import Ask, Expected, Record, Summary, mix, summarise
from tests.fake_vllm import logit
from tests.harness import Server, descendants, wait_until, write_config

Measure = Callable[[str, object], None]  # pytest's `record_property`

PATIENCE_S = 60  # for what takes a few seconds on a machine that has nothing else to do


def expected(query: str, passages: Sequence[str]) -> list[float]:
    """The scores that a fake engine's answer comes to."""
    return sigmoids([logit(query, passage) for passage in passages])


@dataclass(frozen=True)
class Engine:
    """The process ids of one engine: its guard, the program itself, what that started."""

    guard: int
    main: int
    core: int


class Site:
    """A server whose engine 0 can be given faults, and what it tells of itself."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._faults = folder / "fault-0"
        self._watch = folder / "watch"

    def befall(self, fault: str) -> None:
        """From now on `fault` befalls all that engine 0 is asked; "" is none."""
        beside = self._faults.with_name("new")
        beside.write_text(fault)
        beside.replace(self._faults)

    def replicas(self) -> list[dict[str, Any]]:
        """What `/health/ready` says of each engine."""
        replicas: list[dict[str, Any]] = self.server.get("/health/ready").json()["models"][0][
            "replicas"
        ]
        return replicas

    def is_well(self) -> bool:
        """Whether all engines are ready, and none is in doubt."""
        return all(told["ready"] and told["health"] == "good" for told in self.replicas())

    def until_well(self, timeout_s: float = PATIENCE_S) -> float:
        """Waits for that. The seconds that it took."""
        begin = time.monotonic()
        wait_until(self.is_well, timeout_s, lambda: (self.replicas(), self.server.text()[-3000:]))
        return time.monotonic() - begin

    def until_down(self, number: int = 0) -> None:
        """Waits until an engine is known to be gone, or is being ended."""
        wait_until(lambda: self.replicas()[number]["phase"] != "ready", PATIENCE_S, self.replicas)

    def restarts(self) -> list[int]:
        return [told["restarts"] for told in self.replicas()]

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric's values, of those whose labels hold `labels`."""
        told = self.server.get("/metrics").text
        lines = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", told, re.MULTILINE)
        values = [float(value) for found, value in lines if labels in found]
        assert values, f"there is no metric {name} of {labels or 'anything'}"
        return sum(values)

    def engine(self, number: int = 0) -> Engine:
        """The processes of an engine that runs."""
        own = [pid for pid in self.server.descendants() if f"/engine-{number}-" in command(pid)]
        guard = next(pid for pid in own if "guard.py" in command(pid))
        main = next(pid for pid in own if pid != guard)
        return Engine(guard, main, next(iter(descendants(main))))

    def watched(self, event: str) -> list[int]:
        """The pairs of each `asked` or `cancelled` that the engines have seen."""
        lines = self._watch.read_text().split("\n") if self._watch.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(event)]

    def folders(self) -> list[Path]:
        """The private directories of engines that are there."""
        return sorted(self.server.run_dir.glob("*/engine-*/"))


def command(pid: int) -> str:
    """The command line of a process; "" if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def serving(
    folder: Path, *, replicas: int = 1, limits: str = "", **env: str | float
) -> Iterator[Site]:
    """A server that is ready. `limits` is what stands between the braces of its `limits: {}`."""
    config = write_config(folder, f"cache: 0\nreplicas: {replicas}\nlimits: {{{limits}}}\n")
    files = {"FAKE_FAULT_FILE": folder / "fault-{}", "FAKE_WATCH_FILE": folder / "watch"}
    variables = {name: str(value) for name, value in {**files, **env}.items()}
    with Server(config, folder, env=variables) as server:
        yield Site(server.until_ready(PATIENCE_S), folder)


class Clients:
    """So many clients that ask, one request after the other each, for as long as the block runs."""

    def __init__(
        self,
        url: str,
        asks: Iterator[Ask] | None = None,
        *,
        number: int = 8,
        pause_s: float = 0.005,
        expected: Expected = expected,
        within: float = 0.0,
    ) -> None:
        """`pause_s` is between an answer and the next request of the same client."""
        self.records: list[Record] = []
        self._load = Load(url, expected, connections=number, within=within)
        self._asks = asks or mix({1: 3, 5: 1})
        self._number = number
        self._pause_s = pause_s
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Clients":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    def until(self, number: int) -> None:
        """Waits until so many requests have come to an end."""
        wait_until(lambda: len(self.records) >= number, 4 * PATIENCE_S, self.summary)

    def more(self, number: int) -> None:
        """Waits for the end of so many more."""
        self.until(len(self.records) + number)

    def summary(self) -> Summary:
        return summarise(list(self.records))

    def failures(self) -> list[Record]:
        """What was no right answer."""
        return [record for record in self.records if record.outcome != "200" or record.is_wrong]

    async def _run(self) -> None:
        async with self._load:
            await asyncio.gather(*(self._client() for _ in range(self._number)))

    async def _client(self) -> None:
        while not self._is_over:
            begin = time.monotonic()
            record = await self._load.ask(next(self._asks))
            self.records.append(replace(record, begin=begin, end=begin + record.end))
            await asyncio.sleep(self._pause_s)
