"""Keeps one engine alive: start, wait for ready, look after it, restart or give up, stop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve import weights
from serve.argv import Command
from serve.engine import Engine
from serve.errors import RequestError, StartError
from serve.events import Events
from serve.phases import Phases
from serve.process import Process
from serve.racing import first
from serve.replica import Replica
from serve.spec import Model
from serve.vllm_log import Progress
from serve.warmup import check_kind, prove, until_stalled

log = logging.getLogger(__name__)

POLL_S = 0.2
DEATHS_ALLOWED = 5
DEATHS_WINDOW_S = 600.0
KILL_AFTER_S = 10.0  # between TERM and KILL
KILL_AT_ONCE_AFTER_S = 1.0  # vLLM in the middle of its start, or stuck, often hears no TERM


@dataclass(frozen=True)
class End:
    """How an engine that had been ready came to its end, in a word and in a sentence."""

    kind: Literal["asked", "exited", "stalled", "start"]
    why: str = ""


def backoff_s(deaths: Sequence[float], now: float) -> float | None:
    """Seconds until the next start after `deaths` (their times), or None to give up."""
    recent = [death for death in deaths if now - death < DEATHS_WINDOW_S]
    return None if len(recent) > DEATHS_ALLOWED else float(2 ** (len(recent) - 1))


class Supervisor:
    """One engine process, restarted when it dies or hangs after having been ready."""

    def __init__(
        self,
        model: Model,
        replica: Replica,
        command: Command,
        *,
        directory: Path,
        log_file: Path,
        environment: Mapping[str, str],
        events: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
        backoff: Callable[[Sequence[float], float], float | None] = backoff_s,
        learn: Callable[[float], Awaitable[None]] | None = None,
        turn: asyncio.Lock | None = None,
        label: str = "",
    ) -> None:
        """`label` is what the engine is called in logs. `learn` is called before it is
        ready, with the seconds that `prove` took; `turn` is held during each start, to the end of
        one that fails, for engines that may not start at once."""
        self._model = model
        self._replica = replica
        self._command = command
        self._label = label or model.name
        self._whole_environment = {**environment, **command.env}
        self._socket = Path(command.argv[command.argv.index("--uds") + 1])
        self._directory = directory
        self._phases = Phases(self._label, replica, log_file, clock)
        self._environment = environment
        self._events = events or Events()
        self._clock = clock
        self._backoff = backoff
        self._learn = learn
        self._turn = turn
        self._asked = asyncio.Event()  # to restart
        self._proof_s = 0.0

    async def run(self) -> None:
        """Never returns. Raises StartError when the first start fails, or after many deaths."""
        try:
            await self._run()
        except StartError:
            self.fail()
            raise

    def fail(self) -> None:
        """Notes that there will be no engine."""
        self._replica.is_leaving = False
        self._phases.enter(Progress("failed"))

    async def restart(self, grace_s: float) -> bool:
        """Lets the engine finish what it has, `grace_s` seconds at most, and starts it again.

        Returns, when that is done, whether it is ready. One that is starting is waited for.
        """
        replica = self._replica
        if replica.progress.phase == "ready":
            await self._empty(grace_s)
        if replica.is_leaving:
            self._asked.set()
            while replica.is_leaving:  # until it is back, or could not be started
                await asyncio.sleep(POLL_S)
            return replica.progress.phase == "ready"
        while replica.progress.phase not in ("ready", "failed"):
            await asyncio.sleep(POLL_S)
        return replica.progress.phase == "ready"

    async def _empty(self, grace_s: float) -> None:
        """Gives the engine no more work, and waits until it has none. When that is cancelled, it
        goes on as before."""
        replica, deadline = self._replica, self._clock() + grace_s
        replica.is_leaving = True
        try:
            while replica.is_leaving and replica.pairs and self._clock() < deadline:
                await asyncio.sleep(POLL_S)
        except asyncio.CancelledError:
            replica.is_leaving = False
            replica.changed()
            raise

    async def _run(self) -> None:
        deaths: list[float] = []
        has_been_ready = False
        while True:
            try:
                end = await self._live()
                has_been_ready = True
            except (StartError, OSError) as error:  # OSError: of a file or process of this machine
                words = f"{'' if isinstance(error, StartError) else self._label + ': '}{error}"
                if not has_been_ready:
                    raise StartError(words) from error
                end = End("start", words)
            if end.kind == "asked":
                self._replica.restarts += 1
                continue
            self._replica.is_leaving = False
            self._replica.changed()
            self._events.died(self._model.name, self._replica.index, end.kind)
            deaths.append(self._clock())
            delay = self._backoff(deaths, self._clock())
            if delay is None:
                raise StartError(
                    f"{self._label}: the engine died {len(deaths)} times, giving up;"
                    f" the last time: {end.why}; its log: {self._phases.log_file}"
                )
            log.error("%s: the engine died: %s; next start in %g s", self._label, end.why, delay)
            await asyncio.sleep(delay)
            self._replica.restarts += 1

    async def _live(self) -> End:
        """One life of the engine. Raises StartError if it never gets ready."""
        handler = self._phases.begin()
        if self._turn is not None and self._turn.locked():
            self._phases.enter(Progress("waiting"))
        self._socket.unlink(missing_ok=True)
        async with AsyncExitStack() as stack:
            stack.callback(handler.close)
            async with self._turn or nullcontext():
                self._phases.enter(Progress("starting"))
                process = await Process.start(
                    self._command,
                    directory=self._directory,
                    environment=self._environment,
                    on_line=lambda line: self._phases.read(line, handler),
                )
                stack.push_async_callback(self._end, process)
                try:
                    await self._until_ready(process)
                except BaseException:
                    await self._end(process)  # before another's turn: it still holds memory
                    raise
            self._asked.clear()
            self._replica.is_leaving = False
            self._replica.health.answered()
            self._phases.enter(Progress("ready"))
            log.info("%s: ready after %s", self._label, self._phases.shares())
            return await self._until_over(process)

    async def _end(self, process: Process) -> None:
        is_well = self._replica.progress.phase == "ready" and not self._replica.health.needs_a_probe
        if process.is_running:
            self._phases.enter(Progress("stopping"))
        await process.stop(KILL_AFTER_S if is_well else KILL_AT_ONCE_AFTER_S)
        self._phases.enter(Progress("dead"))

    # -- the start -------------------------------------------------------------------------------

    async def _until_ready(self, process: Process) -> None:
        """Waits for health, exit and deadline together, then for one good score."""
        limit = self._model.limits.start_timeout_s
        where = f"its log: {self._phases.log_file}"
        warm, exited = self._warm_up(self._replica.engine), process.wait()
        done = await first({"warm": warm, "exited": exited}, limit)
        if "exited" in done:
            reason = self._phases.why(done["exited"].result())
            raise StartError(f"{self._label}: vLLM did not start: {reason}; {where}")
        if not done:
            raise StartError(
                f"{self._label}: not ready after {limit:g} s (it was"
                f" {self._replica.progress.phase}): raise `limits: {{start_timeout_s: …}}`; {where}"
            )
        try:
            done["warm"].result()
        except RequestError as error:
            reason = self._phases.why(None)
            raise StartError(
                f"{self._label}: the warm-up score failed: {error} ({reason}); {where}"
            ) from error

    async def _warm_up(self, engine: Engine) -> None:
        """Returns once the engine has given scores of the kind that the spec declares."""
        while not await engine.is_healthy():
            done = weights.bytes_downloading(self._model, self._whole_environment)
            if done is not None:
                percent = self._replica.progress.percent
                self._phases.advance(Progress("downloading", percent, done))
            await asyncio.sleep(POLL_S)
        self._phases.enter(Progress("warming up"))
        await check_kind(engine, self._model)
        await prove(engine, self._model)
        self._proof_s = await prove(engine, self._model)  # the first one is slower than any later
        if self._learn is not None:
            await self._learn(self._proof_s)

    # -- while it runs ---------------------------------------------------------------------------

    async def _until_over(self, process: Process) -> End:
        """How a ready engine ends."""
        exited = process.wait()
        stalled = until_stalled(self._replica, self._model, self._proof_s, self._clock)
        done = await first({"exited": exited, "stalled": stalled, "asked": self._asked.wait()})
        if "exited" in done:
            return End("exited", self._phases.why(done["exited"].result()))
        if "stalled" in done:
            done["stalled"].result()  # raises what a fault of ours in it raised
            return End("stalled", f"it gave no answer for {self._model.limits.stall_timeout_s:g} s")
        return End("asked")
