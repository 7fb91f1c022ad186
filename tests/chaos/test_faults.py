"""Whatever befalls an engine, every client gets the right scores or a clean refusal, in time, and
the server is well again by itself. Real processes; engines that do as a file says."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.load import Load
from tests.chaos.site import PATIENCE_S, Clients, Engine, Measure, Site, expected, serving
from tests.chaos.traffic import GAVE_UP, Ask, Record, mix, summarise
from tests.harness import ROOT, alive, wait_until

pytestmark = pytest.mark.alone

# Those that end the engine come first: the pause before its next start grows with each death.
FAULTS = ("die", "hang", "drop", "nan", "short", "garbage", "500", "503", "slow 1.5")
ENDS_IT = ("die", "hang")
HOLD_S = 1.0  # of the others: less than `stall_timeout_s`
REQUESTS = 10_000
LIMITS = "stall_timeout_s: 3, timeout_s: 20"
PATIENT = "wait_s: 10000, timeout_s: 10000"  # whatever there is to do is let in
REFUSALS = {"429", "502", "503", "504"}
LATE_S = 5.0  # that this machine may be, with all else that it does


def is_clean(record: Record) -> bool:
    """Whether a request was answered rightly, or refused with when to come again."""
    if record.is_wrong:
        return False
    if record.outcome in ("429", "503"):
        return record.retry_after is not None and int(record.retry_after) >= 1
    return record.outcome == "200" or record.outcome in REFUSALS


# -- what an engine answers ------------------------------------------------------------------------


def every_fault(site: Site, clients: Clients) -> str:
    """Has each fault befall engine 0, and waits until all is well again. How long that took."""
    took = []
    for fault in FAULTS:
        site.befall(fault)
        if fault in ENDS_IT:
            site.until_down()
        else:
            time.sleep(HOLD_S)
        site.befall("")
        took.append(f"{fault} {site.until_well():.1f} s")
        assert site.server.rerank("q", ["a", "b"]) == expected("q", ["a", "b"])
    clients.until(REQUESTS)
    return ", ".join(took)


def test_no_fault_of_one_engine_of_two_reaches_a_client(tmp_path: Path, record_property: Measure):
    with serving(tmp_path, replicas=2, limits=LIMITS) as site:
        with Clients(site.server.url) as clients:
            took = every_fault(site, clients)
        moved = site.metric("rerank_moved_turns_total")
    words = f"faults of one engine of two: {clients.summary()}; {moved:.0f} turns moved"
    record_property("measured", f"{words}; well again after: {took}")
    assert clients.failures() == []
    assert moved >= 2 * len(FAULTS)  # so they were met


def test_the_faults_of_an_only_engine_are_told_cleanly(tmp_path: Path, record_property: Measure):
    limits = "stall_timeout_s: 3, timeout_s: 2.5"
    with serving(tmp_path, limits=limits) as site, Clients(site.server.url) as clients:
        took = every_fault(site, clients)
    summary = clients.summary()
    record_property("measured", f"faults of an only engine: {summary}; well again after: {took}")
    assert [record for record in clients.records if not is_clean(record)] == []
    assert summary.slowest_s < 2.5 + LATE_S
    assert set(summary.outcomes) >= {"200", "502", "503", "504"}


# -- what becomes of its processes -----------------------------------------------------------------


def test_a_frozen_engine_of_two_is_restarted(tmp_path: Path, record_property: Measure):
    with serving(tmp_path, replicas=2, limits=LIMITS) as site, Clients(site.server.url) as clients:
        clients.until(100)
        frozen = site.engine(0)
        os.kill(frozen.main, signal.SIGSTOP)
        begin = time.monotonic()
        wait_until(lambda: site.restarts() == [1, 0], PATIENCE_S, site.replicas)
        site.until_well()
        took_s = time.monotonic() - begin
        clients.more(100)
        assert not alive({frozen.guard, frozen.main, frozen.core})
        assert site.metric("rerank_moved_turns_total", 'reason="slow"') >= 1
    words = f"one engine of two frozen: {clients.summary()}; well again after {took_s:.1f} s"
    record_property("measured", words)
    assert clients.failures() == []
    assert took_s >= 3


def test_an_only_engine_that_is_frozen(tmp_path: Path, record_property: Measure):
    limits = "stall_timeout_s: 3, timeout_s: 2"
    with serving(tmp_path, limits=limits) as site, Clients(site.server.url) as clients:
        clients.until(100)
        frozen = site.engine(0)
        os.killpg(frozen.guard, signal.SIGSTOP)  # all of its group
        begin = time.monotonic()
        wait_until(lambda: site.restarts() == [1], PATIENCE_S, site.replicas)
        site.until_well()
        took_s = time.monotonic() - begin
        clients.more(100)
        assert not alive({frozen.guard, frozen.main, frozen.core})
    summary = clients.summary()
    words = f"an only engine frozen: {summary}; well again after {took_s:.1f} s"
    record_property("measured", words)
    assert [record for record in clients.records if not is_clean(record)] == []
    assert summary.slowest_s < 2 + LATE_S


def test_processes_that_are_killed(tmp_path: Path, record_property: Measure):
    took = []

    def kill(what: str, *pids: int) -> None:
        begin, before = time.monotonic(), sum(site.restarts())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: sum(site.restarts()) == before + len(pids), PATIENCE_S, site.replicas)
        site.until_well()
        took.append(f"{what} {time.monotonic() - begin:.1f} s")

    with serving(tmp_path, replicas=2, limits=LIMITS) as site, Clients(site.server.url) as clients:
        old = [site.engine(0), site.engine(1)]
        os.kill(old[0].core, signal.SIGKILL)  # which the engine does not notice
        clients.more(100)
        kill("the engine", old[0].main)
        kill("the guard", old[1].guard)
        one_by_one = list(clients.records)
        kill("both engines", site.engine(0).main, site.engine(1).main)
        clients.more(100)
        assert not alive({pid for engine in old for pid in pids_of(engine)})
    record_property("measured", f"killed: {clients.summary()}; well again after: {took}")
    assert [record for record in one_by_one if record.outcome != "200" or record.is_wrong] == []
    assert [record for record in clients.records if not is_clean(record)] == []
    assert set(clients.summary().outcomes) == {"200", "503"}


def pids_of(engine: Engine) -> tuple[int, int, int]:
    return engine.guard, engine.main, engine.core


def test_engines_that_keep_dying_end_the_server(tmp_path: Path):
    with serving(tmp_path, replicas=2, FAKE_LIFE_S=0.3) as site:
        below = site.server.descendants()
        assert site.server.wait(120) == 1
        said = site.server.text()
        assert site.folders() == []
    assert not alive(below)
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: fake/") and "the engine died 6 times, giving up" in last
    assert "exit status 9" in last and "its log: " in last
    assert "the other replicas go on" in said and "Traceback" not in said


# -- reloading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [2, 1])
def test_a_rolling_restart_loses_nothing(tmp_path: Path, record_property: Measure, replicas: int):
    with (
        serving(tmp_path, replicas=replicas, limits=LIMITS) as site,
        Clients(site.server.url, mix({1: 3, 50: 1})) as clients,
    ):
        server = site.server
        clients.until(100)
        old = [site.engine(number) for number in range(replicas)]
        if replicas == 2:
            server.process.send_signal(signal.SIGHUP)
        else:
            port = server.url.rsplit(":", 1)[1]
            told = run_serve("reload", "--port", port, "--run-dir", str(server.run_dir))
            assert told.returncode == 0 and f"port {port}: reloading" in told.stdout
        wait_until(lambda: "reloaded" in server.text(), PATIENCE_S, server.text)
        clients.more(100)
        assert site.restarts() == [1] * replicas and site.is_well()
        new = [site.engine(number) for number in range(replicas)]
        assert not {*map(pids_of, old)} & {*map(pids_of, new)}
        assert not alive({pid for engine in old for pid in pids_of(engine)})
        died = site.metric("rerank_engine_deaths_total")
    record_property("measured", f"a rolling restart of {replicas}: {clients.summary()}")
    assert clients.failures() == []
    assert died == 0


def test_a_rolling_restart_stops_at_an_engine_that_does_not_come_back(tmp_path: Path):
    with serving(tmp_path, replicas=2, limits=LIMITS) as site, Clients(site.server.url) as clients:
        other = site.engine(1)
        site.server.process.send_signal(signal.SIGHUP)
        site.until_down(0)
        site.befall("die")  # at its first score
        wait_until(lambda: site.metric("rerank_engine_deaths_total"), PATIENCE_S, site.replicas)
        clients.more(300)
        site.befall("")
        site.until_well()
        assert site.engine(1) == other
    assert clients.failures() == []


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


# -- clients ---------------------------------------------------------------------------------------


async def at_once(site: Site, asks: Iterator[Ask], number: int) -> list[Record]:
    """What comes of so many requests that are sent together."""
    async with Load(site.server.url, expected, connections=number) as load:
        return await load.open_loop(asks, [0.0] * number)


def test_clients_that_leave_take_their_work_along(tmp_path: Path, record_property: Measure):
    """All of it would take 13 minutes."""

    with serving(tmp_path, limits=PATIENT, FAKE_PAIR_S=0.2) as site:
        warmed_up = sum(site.watched("asked"))
        records = asyncio.run(at_once(site, mix({20: 1}, patience_s=0.6), 200))
        begin = time.monotonic()
        assert len(site.server.rerank("q", ["a"])) == 1
        took_s = time.monotonic() - begin
        wait_until(lambda: site.metric("rerank_requests_in_flight") == 1, PATIENCE_S)  # our own
        assert site.metric("rerank_admitted_requests") == 0
        assert site.metric("rerank_pairs_in_flight") == 0
        assert site.metric("rerank_waiting_pairs") == 0
        assert site.replicas()[0]["pairs_in_flight"] == 0
        asked, cancelled = sum(site.watched("asked")) - warmed_up - 1, site.watched("cancelled")
    words = f"{asked} of 4000 pairs went to the engine, all cancelled; the next took {took_s:.2f} s"
    record_property("measured", f"200 clients that leave: {words}")
    assert summarise(records).outcomes == {GAVE_UP: 200}
    assert 0 < asked == sum(cancelled)
    assert took_s < LATE_S


@pytest.mark.parametrize("header", ["x-rerank-timeout", "x-stainless-read-timeout"])
def test_a_deadline_ends_the_work(tmp_path: Path, header: str):
    with serving(tmp_path, FAKE_PAIR_S=0.2) as site:
        begin = time.monotonic()
        late = site.server.post(
            "/rerank", {"query": "q", "passages": ["a"] * 100}, headers={header: "0.5"}
        )
        took_s = time.monotonic() - begin
        assert late.status_code == 504 and late.headers["x-should-retry"] == "false"
        assert 0.5 <= took_s < 0.5 + LATE_S
        assert len(site.server.rerank("q", ["a"])) == 1
        assert time.monotonic() - begin < 20
        assert site.replicas()[0]["pairs_in_flight"] == 0
        assert site.watched("cancelled")


def test_a_time_that_is_none_is_refused(tmp_path: Path):
    body = {"query": "q", "passages": ["a"]}
    with serving(tmp_path) as site:
        for wrong in ("soon", "-1", "0", "nan", "inf", ""):
            refused = site.server.post("/rerank", body, headers={"x-rerank-timeout": wrong})
            assert refused.status_code == 400 and "x-rerank-timeout" in refused.json()["message"]


def test_what_cannot_be_done_in_its_time_is_refused_at_once(tmp_path: Path):
    with serving(tmp_path, FAKE_PAIR_S=0.02) as site, ThreadPoolExecutor(1) as threads:
        site.server.rerank("q", ["a"] * 100)  # so that its pace is known
        patient = at_once(site, mix({500: 1}, patience_s=3), 1)
        asking = threads.submit(asyncio.run, patient)
        wait_until(lambda: site.replicas()[0]["pairs_in_flight"], PATIENCE_S)
        body = {"query": "q", "passages": ["a"] * 500}
        refused = site.server.post("/rerank", body, headers={"x-rerank-timeout": "0.5"})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert "and has 0." in refused.json()["message"]
        assert asking.result()[0].outcome == GAVE_UP


# -- the end ---------------------------------------------------------------------------------------


def test_a_stop_under_load_finishes_what_is_in_flight(tmp_path: Path):
    with serving(tmp_path, FAKE_PAIR_S=0.01) as site:
        below = site.server.descendants()
        with Clients(site.server.url, mix({20: 1}), number=4) as clients:
            clients.until(8)
            stopped = time.monotonic()
            site.server.process.terminate()
            assert site.server.wait(PATIENCE_S) == 0
        assert not alive(below) and site.folders() == []
    before = [record for record in clients.records if record.begin < stopped]
    assert [record for record in before if not is_clean(record)] == []
    assert any(record.outcome == "200" and record.end > stopped for record in before)
    after = [r for r in clients.records if r.begin >= stopped and r.outcome == "503"]
    assert after and all(map(is_clean, after))


def test_a_stop_answers_what_takes_too_long(tmp_path: Path):
    asks = mix({100: 1})  # 10 s of work each
    with (
        serving(tmp_path, limits=f"stop_timeout_s: 1, {PATIENT}", FAKE_PAIR_S=0.1) as site,
        ThreadPoolExecutor(1) as threads,
    ):
        below = site.server.descendants()
        asking = threads.submit(asyncio.run, at_once(site, asks, 4))
        wait_until(lambda: site.metric("rerank_admitted_requests") == 4, PATIENCE_S)
        site.server.process.terminate()
        assert site.server.wait(PATIENCE_S) == 0
        records = asking.result()
        assert not alive(below) and site.folders() == []
    assert [record.outcome for record in records] == ["503"] * 4
    assert all(is_clean(record) and "has stopped" in record.told for record in records)


def test_a_launcher_that_is_killed_under_load_leaves_nothing(tmp_path: Path):
    with serving(tmp_path, replicas=2, FAKE_PAIR_S=0.01) as site:
        below = site.server.descendants()
        with Clients(site.server.url, number=4) as clients:
            clients.until(20)
            site.server.kill()
            wait_until(lambda: not alive(below), 12 + LATE_S, lambda: alive(below))
        wait_until(lambda: site.folders() == [], LATE_S, site.folders)


def test_a_stop_in_the_middle_of_a_restart_leaves_nothing(tmp_path: Path):
    with serving(tmp_path, FAKE_STUBBORN=1) as site:
        below = site.server.descendants()
        site.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: site.replicas()[0]["phase"] == "stopping", PATIENCE_S)
        site.server.process.terminate()
        assert site.server.wait(PATIENCE_S) == 0
        assert not alive(below) and site.folders() == []


def test_a_stop_gives_every_engine_its_time(tmp_path: Path):
    """The one that ends first does not cut the end of another short."""
    with serving(tmp_path, replicas=2, limits="stall_timeout_s: 60") as site:
        below = site.server.descendants()
        os.kill(site.engine(1).main, signal.SIGSTOP)
        with Clients(site.server.url):
            wait_until(lambda: site.replicas()[1]["health"] != "good", PATIENCE_S, site.replicas)
        site.server.process.terminate()
        assert site.server.wait(PATIENCE_S) == 0
        said = site.server.text()
        assert not alive(below) and site.folders() == []
    assert said.count(": stopping\n") == said.count(": dead\n") == 2


# -- and in the long run ---------------------------------------------------------------------------


def test_memory_does_not_grow(tmp_path: Path, record_property: Measure):
    with (
        serving(tmp_path) as site,
        Clients(site.server.url, mix({1: 1}), number=16, pause_s=0) as clients,
    ):
        clients.until(20_000)
        early = resident_mib(site.server.process.pid)
        clients.until(100_000)
        late = resident_mib(site.server.process.pid)
    words = f"{early:.1f} MiB after 20,000 requests, {late:.1f} after 100,000"
    record_property("measured", f"the launcher: {words}; {clients.summary()}")
    assert clients.failures() == []
    assert late - early < 8


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
