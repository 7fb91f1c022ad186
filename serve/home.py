"""The private directory of one running server: its lock, its engines' sockets, their logs.

RUN_DIR/PORT/lock          held while the server runs; its text is the process id
RUN_DIR/PORT/engine-0-…/   the engine's socket and temporary files, removed when it ends
RUN_DIR/PORT/engine-0.log  what vLLM printed, this time and the last
"""

import fcntl
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from serve.errors import StartError

# A Unix socket's path holds 107 bytes; vLLM makes sockets named by a UUID beside ours.
_LONGEST_ENGINE_PATH = 107 - len("/") - 36


class Home:
    """Use as a context manager. Raises StartError when the directory is unfit or in use."""

    def __init__(self, run_dir: Path, port: int) -> None:
        self.path = run_dir / str(port)
        self._lock = -1

    def __enter__(self) -> "Home":
        _make_private(self.path.parent)
        _make_private(self.path)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StartError(
                f"another server holds {self.path}: stop it with `make stop` or choose another"
                " --port or --run-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    @contextmanager
    def engine(self, index: int) -> Iterator[Path]:
        """A fresh directory for one engine, removed afterwards.

        Its name is new each time: a killed server's guard may still remove the old one.
        """
        for stale in self.path.glob(f"engine-{index}-*"):  # what a killed server left
            shutil.rmtree(stale, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=f"engine-{index}-", dir=self.path))
        if len(os.fsencode(path)) > _LONGEST_ENGINE_PATH:
            path.rmdir()
            raise StartError(f"{path} is too long for a Unix socket: choose a shorter --run-dir")
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def log(self, index: int) -> Path:
        """Where an engine's output is kept."""
        return self.path / f"engine-{index}.log"


def stop(run_dir: Path, port: int, *, timeout_s: float) -> bool:
    """Ends the server of `port` and waits until it has gone; False when there is none.

    Raises StartError when it is still there after `timeout_s` seconds.
    """
    lock = run_dir / str(port) / "lock"
    pid = _holder(lock)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while _holder(lock) == pid:
        if time.monotonic() > deadline:
            raise StartError(
                f"process {pid} is still stopping after {timeout_s:g} s: see its output"
            )
        time.sleep(0.1)
    return True


def reload(run_dir: Path, port: int) -> bool:
    """Tells the server of `port` to reload; False when there is none."""
    pid = _holder(run_dir / str(port) / "lock")
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    return pid is not None


def _holder(lock: Path) -> int | None:
    """The process that holds a lock file, which proves that it lives."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = lock.read_text().strip()
        return int(text) if text else None
    return None


def _make_private(path: Path) -> None:
    """Makes a directory that only this user may enter, or checks that it is one."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StartError(f"{path} cannot be made: {error}; choose another --run-dir") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartError(
            f"{path} must be a directory that only you may enter (chmod 700), since the engines'"
            " sockets are in it; or choose another --run-dir"
        )
