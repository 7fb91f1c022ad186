"""A peer in a process of its own, which is asked line by line and stopped while others work."""

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parents[2]
# Threads that wait do not spin, and nothing is fetched or reported.
ENV = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}


TIMEOUT_S = 900.0  # of one answer, or of a start


class WorkerError(Exception):
    """A worker that ended, or answers what nobody asked for: its last words."""


class Worker:
    """One process of `command`. Use as a context manager, which ends it."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Waits until it is ready. Raises WorkerError."""
        self._timeout_s = timeout_s
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**env, **ENV},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.ready: Mapping[str, Any] = self._read()["ready"]
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(
        cls, python: Path, module: str, loads: Mapping[str, object], env: Mapping[str, str]
    ) -> Self:
        """The worker `workers/MODULE.py`, run by another environment's Python."""
        name = f"benchmarks.peers.workers.{module}"
        return cls([str(python), "-m", name, json.dumps(loads)], env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, **asked: object) -> Mapping[str, Any]:
        """One answer. Raises WorkerError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(self._last_words()) from error
        return self._read()

    def freeze(self) -> None:
        """Stops all its threads, so that none takes time from others."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):  # a question that it did not live to read
                    stream.close()

    def _read(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self._timeout_s, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise WorkerError(self._last_words() if not line else f"no answer: {line[:200]!r}")
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"ended with status {self._process.returncode}"
