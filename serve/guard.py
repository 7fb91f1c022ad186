"""Stands between the launcher and one engine, so that the engine never outlives the launcher.

Run as a program: `guard.py DIRECTORY COMMAND…`. It leads a session of its own, starts the command
in it, and holds the read end of a pipe as its standard input. When the launcher dies, by whatever
signal, the pipe closes; the guard then ends the whole group and removes the engine's directory.
When the command ends by itself, the guard exits with its status. It imports little, to start fast.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0  # between TERM and KILL when the launcher has died
_PR_SET_PDEATHSIG = 1


def main(directory: str, command: list[str]) -> int:
    # The launcher's TERM goes to the group and is meant for the engine; a handler that does
    # nothing, unlike SIG_IGN, is not inherited by it.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    except OSError as error:
        kind = type(error).__name__
        print(f"{kind}: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    ending = threading.Event()
    watch = threading.Thread(
        target=_end_with_launcher, args=(child, directory, ending), daemon=True
    )
    watch.start()
    status = child.wait()
    if ending.is_set():
        watch.join()  # it cleans up and then kills this process
    return status if status >= 0 else 128 - status


def _die_with_guard() -> None:
    """In the child: should the guard be killed, the kernel kills the child too (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_launcher(
    child: "subprocess.Popen[bytes]", directory: str, ending: threading.Event
) -> None:
    while os.read(0, 1024):
        pass
    ending.set()
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # what is left of the group, and the guard with it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
