"""One child process behind its guard: a group of its own, output by line, TERM then KILL."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from serve.argv import Command

GUARD = Path(__file__).with_name("guard.py")
_NEWLINE = re.compile(rb"\r\n|\n|\r")  # progress bars end their states with a bare return
_LONGEST_LINE = 64 * 1024


class Process:
    """A running command. It is ended with its whole group, and never outlives this process."""

    def __init__(self, child: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._child = child
        self._exit = asyncio.create_task(self._read_to_end(on_line))

    @classmethod
    async def start(
        cls,
        command: Command,
        *,
        directory: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> "Process":
        """Starts `command` with `environment` and its own settings over it.

        `on_line` gets each line of its output. `directory` is removed if this process dies.
        """
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(GUARD), str(directory), *command.argv),
            stdin=asyncio.subprocess.PIPE,  # the guard's lifeline: closed when we die
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**environment, **command.env},
            start_new_session=True,
        )
        return cls(child, on_line)

    @property
    def is_running(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> int:
        """The exit status, once the command and everything it started are gone."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float) -> None:
        """Ends the group: TERM, then KILL after `grace_s` seconds. Does nothing to a dead one."""
        if self.is_running:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await asyncio.shield(self._exit)
            except TimeoutError:
                self._signal(signal.SIGKILL)
        await self._exit

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    async def _read_to_end(self, on_line: Callable[[str], None]) -> int:
        exited = asyncio.create_task(self._child.wait())
        reading = asyncio.create_task(self._read(on_line))
        status = await exited
        # The guard is gone; what it left of its group goes with it (and closes the output).
        self._signal(signal.SIGKILL)
        await reading
        return status

    async def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._child.stdout is not None
        rest = b""
        while chunk := await self._child.stdout.read(_LONGEST_LINE):
            *lines, rest = _NEWLINE.split(rest + chunk)
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                if line.strip():
                    on_line(line.decode("utf-8", "replace"))
        if rest.strip():
            on_line(rest.decode("utf-8", "replace"))
