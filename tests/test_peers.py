"""Peers side by side: the workers' protocol, what is made of scores and rates, the lean engine."""

import argparse
import asyncio
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import peers
from benchmarks.load.targets import DIALECTS
from benchmarks.peers import environments, machine, proxies, verdicts, wire, zero_engine
from benchmarks.peers.agreement import Agreement, agreement, worst
from benchmarks.peers.fronts import Front, free_port, relay
from benchmarks.peers.subjects import CROSS_ENCODER, MINILM
from benchmarks.peers.texts import WORDS, Texts, whole_words
from benchmarks.peers.verdicts import Result
from benchmarks.peers.wire import Address, Rate
from benchmarks.peers.worker import Worker, WorkerError
from deploy.install import requirements
from serve.engine import Engine
from tests.harness import ROOT, alive, wait_until

ENV = {"PATH": "/usr/bin:/bin"}
STAND_IN = """
    from benchmarks.peers.workers.answering import answer_scores, answers

    out = answers()
    print("a library that prints")

    def score(query, passages, setting):
        if query == "die":
            raise SystemExit("its last words")
        return [len(passage) * setting for passage in passages]

    answer_scores(out, {"settings": [1, 2]}, score)
"""
NEAR, FAR = Agreement(1e-6, 1.0), Agreement(0.5, 0.1)


def stand_in(script: str = STAND_IN) -> Worker:
    return Worker([sys.executable, "-c", textwrap.dedent(script)], ENV)


def test_a_worker_answers_line_by_line_whatever_it_prints():
    with stand_in() as worker:
        assert worker.ready == {"settings": [1, 2]}
        told = worker.ask(cmd="score", query="q", passages=["a", "bcd"], setting=2)
        assert told["scores"] == [2, 6] and told["seconds"] >= 0


def test_a_worker_at_rest_does_nothing_until_it_is_thawed():
    with stand_in() as worker:
        process = psutil.Process(worker._process.pid)
        worker.freeze()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 5)
        worker.thaw()
        assert worker.ask(cmd="score", query="q", passages=["a"], setting=1)["scores"] == [1]
        worker.freeze()
    assert not process.is_running()  # one that is stopped is ended too


def test_a_worker_at_rest_does_not_outlive_whoever_started_it():
    parent = f"""
import os, sys
from benchmarks.peers.worker import Worker

worker = Worker([sys.executable, "-c", {textwrap.dedent(STAND_IN)!r}], {ENV!r})
worker.freeze()
print(worker._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-c", parent]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: not alive({int(done.stdout)}), 5)


def test_a_worker_that_ends_tells_why():
    with stand_in() as worker, pytest.raises(WorkerError, match="its last words"):
        worker.ask(cmd="score", query="die", passages=["a"], setting=1)
    with pytest.raises(WorkerError, match="No module named 'nobody'"):
        stand_in("import nobody")


def test_a_worker_that_hangs_is_ended():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(WorkerError, match="status -9"):
        Worker(command, ENV, timeout_s=0.2)


def test_workers_need_none_of_our_packages():
    """They are started in environments that have none: only the standard library is at hand."""
    code = "import benchmarks.peers.workers.answering, benchmarks.peers as p; print(p.FAMILIES[0])"
    command = [sys.executable, "-S", "-E", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert done.stdout == "vllm\n", done.stderr


@pytest.mark.parametrize("lock", sorted(environments.LOCKS.glob("*.txt")), ids=lambda x: x.stem)
def test_every_version_is_exact(lock: Path):
    pins = requirements(lock)
    assert pins and all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)
    assert lock.stem in environments.DISK_GIB
    assert all(pin == "torch==2.13.0" for pin in pins if pin.startswith("torch=="))


def test_operations_of_the_linear_maps():
    # By hand: 4 of 768 x 768 and 2 of 768 x 3072 are 7,077,888 weights a layer, 12 layers, 2 each.
    assert CROSS_ENCODER.flops(1) == 2 * 12 * 7_077_888 == 169_869_312
    assert MINILM.flops(10) == 10 * 2 * 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert CROSS_ENCODER.tokens(128, 32) == 128
    assert MINILM.tokens(128, 32) == 128 + 18 / 32  # the query, once for all


def test_texts_have_the_tokens_that_were_asked_for():
    for subject, around in ((CROSS_ENCODER, 16 + 4), (MINILM, 2)):
        texts = Texts(WORDS, subject.around)
        query, passages = texts.make(1, 3, 128)
        assert len(query.split()) == 16
        assert [len(passage.split()) + around for passage in passages] == [128] * 3
        assert texts.make(1, 3, 128) == (query, passages) != texts.make(2, 3, 128)
    assert whole_words(lambda text: len(text.split()) + text.count("y"), ["one", "city"]) == ["one"]


def test_agreement():
    same = agreement([0.1, 2.0, -1.0], [0.1, 2.0, -1.0], "logit")
    assert same == Agreement(0.0, 1.0) and same.verdict("float32") == "yes"
    swapped = agreement([0.5, 0.4, 0.1], [0.4, 0.5, 0.1], "cosine")
    assert swapped.distance == pytest.approx(0.1) and swapped.tau == pytest.approx(1 / 3)
    # Logits are compared as probabilities: sigmoid(0) = 0.5, sigmoid(ln 3) = 0.75.
    assert agreement([math.log(3), 5], [0.0, 5], "logit").distance == pytest.approx(0.25)
    assert agreement([1000.0, -1000.0], [1000.0, -1000.0], "logit").distance == 0
    for bad in ([0.1], [0.1, math.nan]):
        assert agreement(bad, [0.1, 0.2], "cosine").verdict("bfloat16") == "NO"
    assert Agreement(0.05, 1.0).verdict("bfloat16") == "yes"
    assert Agreement(0.05, 1.0).verdict("float32") == "NO"
    assert Agreement(0.05, 1.0).verdict("int8") == "not judged"
    assert worst([Agreement(0.1, 0.9), Agreement(0.2, 1.0)]) == Agreement(0.2, 0.9)


def results(**agreements: Agreement) -> list[Result]:
    told = {"ours": NEAR, "infinity": NEAR, **agreements}
    return [
        Result("ours", "float32", [10, 30, 20], told["ours"]),
        Result("vllm", "float32", [11, 31, 21], NEAR),
        Result("sentence-transformers", "float32", [20, 20, 20], NEAR, 8),
        Result("infinity", "float32", [25, 50, 80], told["infinity"], 32),
        Result("onnxruntime", "int8", [40, 60, 80], FAR, 8),
    ]


def test_figures_are_of_the_fastest_rival_that_agrees():
    ceilings = {"float32": 100.0, "bfloat16": 200.0}
    (figure,) = verdicts.figures("m", 128, results(), ceilings)
    assert figure.value == 0.4 and not figure.is_reached  # of 10/25, 30/50, 20/80
    assert "infinity has 50%" in figure.why and "ours 20%" in figure.why
    (figure,) = verdicts.figures("m", 128, results(infinity=FAR), ceilings)
    assert figure.value == 1.0 and figure.is_reached and not figure.why
    (figure,) = verdicts.figures("m", 128, results(ours=FAR), ceilings)
    assert figure.value == 0 and "our scores are 5.0e-01 off" in figure.why
    assert verdicts.figures("m", 128, results()[:2], ceilings) == []


def test_nothing_counts_where_there_is_nothing_to_compare_with():
    unknown = [replace(r, agreement=Agreement(math.nan, math.nan)) for r in results()]
    assert verdicts.figures("m", 128, unknown, {}) == []
    assert "nothing counts" in verdicts.notes("m", 128, unknown)[0]


def test_rows_and_notes():
    rows = verdicts.rows("m", 128, results(infinity=FAR), {"float32": 100.0, "bfloat16": 200.0})
    assert all(row.keys() == rows[0].keys() for row in rows)
    by_peer = {row["peer"]: row for row in rows}
    assert by_peer["ours"]["ours/peer"] == "1.000" and by_peer["ours"]["of GEMM"] == "20%"
    assert by_peer["infinity"]["agrees"] == "NO"
    assert by_peer["onnxruntime"]["of GEMM"] == "30%"  # of bfloat16's
    off, int8 = verdicts.notes("m", 128, results(infinity=FAR))
    assert "infinity float32 is 0.5 off and does not count" in off
    assert "onnxruntime int8 does 3.00 of ours float32" in int8


def test_a_busy_machine_is_told_of():
    assert not machine.notes(0.4, 2)
    assert "1.7 of 2 cores" in machine.notes(1.7, 2)[0]
    assert 0 <= machine.cores_at_work() <= (os.cpu_count() or 1)


def test_figures_of_proxies_are_of_the_worst_number_of_clients():
    def turns(*per_second: int) -> proxies.Turns:
        front = Front("any", Address())
        return proxies.Turns(front, [Rate(n, 1.0) for n in per_second], cpu_s=0.5)

    loads = [
        proxies.Load(8, 4, {"ours": turns(90, 90), "litellm": turns(9, 9), "engine": turns(1, 1)}),
        proxies.Load(
            32, 4, {"ours": turns(70, 70), "litellm": turns(10, 10), "engine": turns(1, 1)}
        ),
    ]
    (figure,) = proxies.figures(loads)
    assert figure.value == 7 and figure.wanted == 8 and "with 32 clients" in figure.why
    assert len({tuple(row) for row in proxies.rows(loads)}) == 1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The engine that takes no time: its socket and its port."""
    socket = tmp_path_factory.mktemp("zero") / "s"
    port = free_port()
    module = "benchmarks.peers.zero_engine"
    command = [sys.executable, "-m", module, str(port), "serve", "--uds", str(socket)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(socket.exists, 10)
            yield str(socket), port
        finally:
            process.kill()


def test_our_engine_client_reads_the_engine_that_takes_no_time(engine: tuple[str, int]):
    async def ask() -> None:
        client = Engine(engine[0])
        body = json.dumps({"queries": "q, of [all]", "documents": ["a", "b", "c"]}).encode()
        raw = await client.score(body, 3)
        assert list(raw.values) == [zero_engine._value(index) for index in range(3)]
        assert await client.is_healthy()
        assert await client.has_route("/classify")
        assert await client.max_model_len() == 8192
        client.close()

    asyncio.run(ask())


def test_what_proxies_ask_is_answered_with_the_right_number_of_scores(engine: tuple[str, int]):
    for address in (Address(socket=engine[0]), Address(engine[1])):
        for passages in (4, 100):
            whole = proxies._requests(passages, "key")[0]
            scores = DIALECTS["documents"].scores(wire.ask(address, whole), passages)
            assert scores == [zero_engine._value(index) for index in range(passages)]


def test_the_relay_passes_on_what_is_asked_and_answered(engine: tuple[str, int]):
    whole = proxies._requests(100, "key")[0]
    with relay(Address(socket=engine[0]), "key", os.environ) as front:
        assert wire.ask(front.address, whole) == wire.ask(Address(engine[1]), whole)
        assert wire.load(front.address, [whole], clients=3, seconds=0.1).requests >= 3
        assert front.cpu_s() > 0


def test_the_lean_loop_counts_answers_and_refuses_errors(engine: tuple[str, int]):
    requests = proxies._requests(4, "key")
    begin = time.perf_counter()
    rate = wire.load(Address(engine[1]), requests, clients=3, seconds=0.1)
    assert rate.requests >= 3 and rate.seconds <= time.perf_counter() - begin
    bad = [b"POST /nowhere HTTP/1.1\r\ncontent-length: 0\r\n\r\n"]
    with pytest.raises(wire.WrongAnswer, match="status 404"):
        wire.load(Address(engine[1]), bad, clients=1, seconds=0.1)
    with pytest.raises(wire.WrongAnswer, match="no connection"):
        wire.load(Address(free_port()), requests, clients=1, seconds=0.1)


@pytest.mark.parametrize("option", ["--models", "--peers"])
def test_an_unknown_name_is_one_clear_line(option: str, capsys: pytest.CaptureFixture[str]):
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    with pytest.raises(SystemExit) as error:
        parser.parse_args([option, "minilm,nobody"] if option == "--models" else [option, "nobody"])
    assert error.value.code == 2
    assert f"argument {option}: 'nobody' is none of" in capsys.readouterr().err
