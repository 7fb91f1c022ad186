"""How long a start takes, phase by phase, and what the gateway keeps in memory."""

import argparse
import re
import tempfile
import time
from pathlib import Path

import psutil
import requests

from benchmarks.load.options import count
from benchmarks.outcome import Outcome, Row
from tests.harness import Server

_READY = re.compile(r"ready after ([\d.]+) s \((.*)\)")
MIB = 1024**2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=count, default=3, help="starts; default: %(default)s")


def run(arguments: argparse.Namespace) -> list[Outcome]:
    return [startup(arguments.runs)]


def startup(runs: int) -> Outcome:
    """The embedded model from `python -m serve up` to its first score, `runs` times."""
    return Outcome(
        "startup",
        "from `python -m serve up` to the first score, embedded model",
        [_one_start() for _ in range(runs)],
    )


def _one_start() -> Row:
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as work, Server("minilm", Path(work), vllm=None) as server:
        while not _is_live(server.url):
            time.sleep(0.005)
        live = time.perf_counter() - begin
        server.until_ready(300)
        ready = time.perf_counter() - begin
        server.rerank("a query", ["a passage"] * 64)
        found = _READY.search(server.text())
        return {
            "live s": round(live, 2),
            "ready s": round(ready, 1),
            "phases": found[2] if found else "",
            "gateway MiB": round(psutil.Process(server.process.pid).memory_info().rss / MIB),
        }


def _is_live(url: str) -> bool:
    try:
        return requests.get(url + "/health/live", timeout=1).ok
    except requests.RequestException:
        return False
