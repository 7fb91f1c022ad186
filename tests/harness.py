"""Runs the server as its users do, as a process, and asks it over HTTP."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).resolve().parent.parent
KEY = "secret"  # of the fixture `keyed_server`
FAKE_ENGINE = f"{sys.executable} {ROOT / 'tests' / 'fake_vllm.py'}"
_URL = re.compile(r"on (https?://\S+);")
# Whether a cross-encoder's float32 score is the same to the last bit in any batch: by Intel MKL's
# strict mode (`CPU_ENV` in serve/argv.py), which it has on Intel's own CPUs only.
PROMISES_BITS = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
# How far the batch may move it on others: absolute; measured in benchmarks/LOG.md, 2026-11-26.
SCORE_TOLERANCE, LOGIT_TOLERANCE = 2.5e-6, 2e-5


class Server:
    """A `python -m serve up` process. Use as a context manager."""

    def __init__(
        self,
        config: Path | str,
        work: Path,
        *options: str,
        vllm: str | None = FAKE_ENGINE,
        env: Mapping[str, str] | None = None,
        trusting: Path | None = None,
    ) -> None:
        """`trusting` is the certificate of a server that speaks HTTPS."""
        self.trusting = str(trusting) if trusting else None
        self.output = work / "serve.log"
        self.run_dir = Path(tempfile.mkdtemp(prefix="rerank-"))  # short, as Unix sockets need it
        self.arguments = [str(config), "--port", "0", "--run-dir", str(self.run_dir), *options]
        if vllm is not None:
            self.arguments += ["--vllm", vllm]
        self.env = {**os.environ, **(env or {})}
        self.url = ""

    def __enter__(self) -> "Server":
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serve", "up", *self.arguments],
                cwd=ROOT,
                env=self.env,
                stdout=output,
                stderr=output,
            )
        wait_until(lambda: self._find_url() or self.process.poll() is not None, 20, self.text)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.left_over = sorted(self.run_dir.glob("*/engine-*/*"))
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def _find_url(self) -> bool:
        found = _URL.search(self.text())
        self.url = found[1] if found else ""
        return bool(found)

    def text(self) -> str:
        """What the server has printed so far."""
        return self.output.read_text() if self.output.exists() else ""

    def until_ready(self, timeout_s: float = 20) -> "Server":
        """Waits until every model is ready, or for the end of the process."""
        wait_until(
            lambda: self.process.poll() is not None or self._is_ready(),
            timeout_s,
            self.text,
        )
        assert self.process.poll() is None, self.text()
        return self

    def _is_ready(self) -> bool:
        try:
            answer = self.get("/health/ready")
            return answer.ok and not answer.json()["degraded"]
        except requests.ConnectionError:
            return False

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        return requests.get(self.url + path, timeout=30, headers=headers, verify=self.trusting)

    def post(
        self, path: str, body: object, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        return requests.post(
            self.url + path, json=body, timeout=120, headers=headers, verify=self.trusting
        )

    def rerank(self, query: str, passages: Sequence[str]) -> list[float]:
        """The simple route's scores."""
        answer = self.post("/rerank", {"query": query, "passages": list(passages)})
        assert answer.ok, answer.text
        scores: list[float] = answer.json()
        return scores

    def descendants(self) -> set[int]:
        """The processes below the server: guard, engine, and all that the engine started."""
        return descendants(self.process.pid)

    def wait(self, timeout_s: float = 20) -> int:
        """The exit status."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def write_config(folder: Path, text: str = "", *, model: str | None = None) -> Path:
    """A YAML for the fake engine, with `text` under its first lines."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text("{}")
    path = folder / "fake.yaml"
    path.write_text(f"model: {model or weights}\nnames: [fake, org/fake]\n{text}")
    return path


def descendants(pid: int) -> set[int]:
    """Every process below `pid`."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo += new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that run (a zombie does not)."""
    return {pid for pid in pids if _state(pid) not in ("", "Z")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(
    condition: Callable[[], object], timeout_s: float, explain: Callable[[], object] = lambda: ""
) -> None:
    """Polls until `condition()` is true; fails with `explain()` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"still not after {timeout_s} s: {explain()}"
        time.sleep(0.05)


def same_scores(expected: Any) -> Any:
    """Equals `expected`, scores (a number, list or mapping) of the same pairs from another batch.

    To the last bit where the CPU promises that, else within SCORE_TOLERANCE.
    """
    return expected if PROMISES_BITS else pytest.approx(expected, rel=0, abs=SCORE_TOLERANCE)


def same_logits(expected: Any) -> Any:
    """The same for a cross-encoder's raw values, within LOGIT_TOLERANCE."""
    return expected if PROMISES_BITS else pytest.approx(expected, rel=0, abs=LOGIT_TOLERANCE)
