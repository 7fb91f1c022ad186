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
LAST_WORDS_S = 5.0


class Process:
    """A running command. It is ended with its whole group, and never outlives this process."""

    def __init__(
        self, child: asyncio.subprocess.Process, output: int, on_line: Callable[[str], None]
    ) -> None:
        self._child = child
        self._exit = asyncio.create_task(self._follow(output, on_line))

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
        # A pipe of our own: asyncio's would let wait() return only once every process that holds
        # it is gone, and those that a dead engine leaves go only after that.
        output, write_end = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(GUARD), str(directory), *command.argv),
                stdin=asyncio.subprocess.PIPE,  # the guard's lifeline: closed when we die
                stdout=write_end,
                stderr=write_end,
                env={**environment, **command.env},
                start_new_session=True,
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(write_end)
        return cls(child, output, on_line)

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
            except (TimeoutError, asyncio.CancelledError) as error:
                self._signal(signal.SIGKILL)
                if isinstance(error, asyncio.CancelledError):  # nobody would come back to do it
                    await asyncio.shield(self._exit)
                    raise
        await self._exit

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    async def _follow(self, output: int, on_line: Callable[[str], None]) -> int:
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        reading = asyncio.create_task(_read_lines(reader, on_line))
        status = await self._child.wait()
        # The guard is gone; what it left of its group goes with it (and closes the output).
        self._signal(signal.SIGKILL)
        # A process that left the group may still hold the output open; that must not hold us.
        await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        reading.cancel()
        pipe.close()
        return status


async def _read_lines(reader: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    rest = b""
    while chunk := await reader.read(_LONGEST_LINE):
        *lines, rest = _NEWLINE.split(rest + chunk)
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in filter(bytes.strip, lines):
            on_line(line.decode("utf-8", "replace"))
    if rest.strip():
        on_line(rest.decode("utf-8", "replace"))
