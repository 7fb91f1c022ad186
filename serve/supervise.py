"""Keeps one engine alive: start, wait for ready, restart or give up, stop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path

from serve import weights
from serve.argv import Command
from serve.engine import Engine, encode, options
from serve.errors import RequestError, StartError
from serve.pool import Replica
from serve.process import Process
from serve.rerank import RerankRequest, build_result
from serve.spec import Model
from serve.vllm_log import PHASES, Progress, explain, progress

log = logging.getLogger(__name__)

POLL_S = 0.2
LOG_BYTES = 10 * 1024 * 1024
LINES_KEPT = 4000  # of one start, to find its first error in
DEATHS_ALLOWED = 5
DEATHS_WINDOW_S = 600.0
KILL_AFTER_S = 10.0  # between TERM and KILL
KILL_STARTING_AFTER_S = 1.0  # vLLM in the middle of its start often hears no TERM

# An engine is ready when it has scored this. `/health` alone does not prove a forward pass.
WARM_UP = RerankRequest(
    queries=["What does a reranker do?"],
    passages=["It scores how well each passage answers a query.", "Bread rises in the oven."],
)
# The route that vLLM offers for a model of each kind, which tells one kind from the other.
_KIND_ROUTES = {"logit": "/classify", "cosine": "/v1/embeddings"}


def backoff_s(deaths: Sequence[float], now: float) -> float | None:
    """Seconds until the next start after `deaths` (their times), or None to give up."""
    recent = [death for death in deaths if now - death < DEATHS_WINDOW_S]
    return None if len(recent) > DEATHS_ALLOWED else float(2 ** (len(recent) - 1))


class Supervisor:
    """One engine process, restarted when it dies after having been ready."""

    def __init__(
        self,
        model: Model,
        replica: Replica,
        command: Command,
        *,
        directory: Path,
        log_file: Path,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        backoff: Callable[[Sequence[float], float], float | None] = backoff_s,
        learn: Callable[[], Awaitable[None]] | None = None,
        turn: asyncio.Lock | None = None,
    ) -> None:
        """`learn` is called when the engine first answers, before it is ready; `turn` is held
        during each start, to the end of one that fails, for engines that may not start at once."""
        self._model = model
        self._replica = replica
        self._command = command
        self._socket = Path(command.argv[command.argv.index("--uds") + 1])
        self._directory = directory
        self._log_file = log_file
        self._environment = environment
        self._whole_environment = {**environment, **command.env}
        self._clock = clock
        self._backoff = backoff
        self._learn = learn
        self._turn = turn
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._phases: list[tuple[str, float]] = []

    async def run(self) -> None:
        """Never returns. Raises StartError when the first start fails, or after many deaths."""
        try:
            await self._run()
        except StartError:
            self.fail()
            raise

    def fail(self) -> None:
        """Notes that there will be no engine."""
        self._enter(Progress("failed"))

    async def _run(self) -> None:
        deaths: list[float] = []
        while True:
            try:
                exit_code = await self._live()
                reason = explain(self._lines, exit_code)
            except StartError as error:
                if not deaths:
                    raise
                reason = str(error)
            deaths.append(self._clock())
            delay = self._backoff(deaths, self._clock())
            if delay is None:
                raise StartError(
                    f"{self._model.name}: the engine died {len(deaths)} times, giving up;"
                    f" the last time: {reason}; its log: {self._log_file}"
                )
            name = self._model.name
            log.error("%s: the engine died: %s; next start in %g s", name, reason, delay)
            await asyncio.sleep(delay)
            self._replica.restarts += 1

    async def _live(self) -> int:
        """One life of the engine, to its exit status. Raises StartError if it never gets ready."""
        self._lines.clear()
        if self._turn is not None and self._turn.locked():
            self._enter(Progress("waiting"))
        self._phases.clear()
        self._socket.unlink(missing_ok=True)
        handler = RotatingFileHandler(
            self._log_file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
        )
        async with AsyncExitStack() as stack:
            stack.callback(handler.close)
            async with self._turn or nullcontext():
                self._enter(Progress("starting"))
                process = await Process.start(
                    self._command,
                    directory=self._directory,
                    environment=self._environment,
                    on_line=lambda line: self._on_line(line, handler),
                )
                stack.push_async_callback(self._end, process)
                try:
                    await self._until_ready(process)
                except BaseException:
                    await self._end(process)  # before another's turn: it still holds memory
                    raise
            self._enter(Progress("ready"))
            log.info("%s: ready after %s", self._model.name, self._shares())
            return await process.wait()

    async def _end(self, process: Process) -> None:
        grace = KILL_AFTER_S if self._replica.is_ready else KILL_STARTING_AFTER_S
        if process.is_running:
            self._enter(Progress("stopping"))
        await process.stop(grace)
        self._enter(Progress("dead"))

    # -- the start -------------------------------------------------------------------------------

    async def _until_ready(self, process: Process) -> None:
        """Waits for health, exit and deadline together, then for one good score."""
        limit = self._model.limits.start_timeout_s
        warm = asyncio.create_task(self._warm_up(self._replica.engine))
        exited = asyncio.create_task(process.wait())
        try:
            done, _ = await asyncio.wait(
                {warm, exited}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (warm, exited):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
        where = f"its log: {self._log_file}"
        if exited in done:
            reason = explain(self._lines, exited.result())
            raise StartError(f"{self._model.name}: vLLM did not start: {reason}; {where}")
        if not done:
            raise StartError(
                f"{self._model.name}: not ready after {limit:g} s (it was"
                f" {self._replica.progress.phase}): raise `limits: {{start_timeout_s: …}}`; {where}"
            )
        try:
            warm.result()
        except RequestError as error:
            reason = explain(self._lines, None)
            raise StartError(
                f"{self._model.name}: the warm-up score failed: {error} ({reason}); {where}"
            ) from error

    async def _warm_up(self, engine: Engine) -> None:
        """Returns once the engine has given scores of the kind that the spec declares."""
        while not await engine.is_healthy():
            self._look_for_a_download()
            await asyncio.sleep(POLL_S)
        self._enter(Progress("warming up"))
        kind = self._model.score.of
        if not await engine.has_route(_KIND_ROUTES[kind]):
            other = "cosine" if kind == "logit" else "logit"
            raise StartError(
                f"{self._model.name}: vLLM does not take this model for one whose values are"
                f" {kind}s: write `score: {other}` in its YAML if it is"
                f" {'an embedding model' if other == 'cosine' else 'a cross-encoder'}, or make it"
                " a reranker with `vllm: {hf-overrides: …}` as configs/bge-reranker-v2-gemma.yaml"
            )
        timeout_s = self._model.limits.timeout_s
        fields = options(WARM_UP, self._model, self._model.max_model_len)
        body = encode(replace(WARM_UP, options=fields))
        raw = await engine.score(body, 2, timeout_s=timeout_s)
        build_result(WARM_UP, raw, score=self._model.score, model="", id="", created=0)
        if self._learn is not None:
            await self._learn()

    def _look_for_a_download(self) -> None:
        done = weights.bytes_downloading(self._model, self._whole_environment)
        if done is not None and _leads(self._replica.progress.phase, "downloading"):
            self._enter(Progress("downloading", self._replica.progress.percent, done))

    def _on_line(self, line: str, handler: RotatingFileHandler) -> None:
        handler.handle(logging.makeLogRecord({"msg": line}))
        self._lines.append(line)
        seen = progress(line)
        if seen is not None and _leads(self._replica.progress.phase, seen.phase):
            self._enter(seen)

    def _enter(self, now: Progress) -> None:
        """Notes where the engine is, and since when if that is another phase."""
        changed = now.phase != self._replica.progress.phase or not self._phases
        self._replica.progress = now
        if changed:
            self._replica.since = self._clock()
            self._phases.append((now.phase, self._replica.since))
            log.info("%s: %s", self._model.name, now.phase)

    def _shares(self) -> str:
        """How long the start took and the share of each phase."""
        times = [time for _, time in self._phases]
        total = times[-1] - times[0]
        parts = (
            f"{phase} {end - begin:.1f} s"
            for (phase, begin), end in zip(self._phases, times[1:], strict=False)
        )
        return f"{total:.1f} s ({', '.join(parts)})"


def _leads(before: str, after: str) -> bool:
    """Whether a start in the phase `before` may be said to be in `after`: it only goes forward."""
    start = PHASES[:-1]
    return before in start and after in start and start.index(before) <= start.index(after)
