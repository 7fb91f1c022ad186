"""Every engine of a stack: what starts it, what its pool learns of it, that it may fail alone."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve import argv, weights
from serve.engine import Engine
from serve.errors import ConfigError, ServeError
from serve.events import Events
from serve.job import size_of
from serve.pool import Pool
from serve.replica import Replica
from serve.spec import DeviceKind, Model
from serve.supervise import Supervisor
from serve.warmup import WARM_UP

if TYPE_CHECKING:
    from serve.shared_cache import SharedCache
    from serve.traces import Tracing

log = logging.getLogger(__name__)

SOCKET_NAME = "http.sock"


@dataclass(frozen=True)
class Program:
    """What every engine is started with."""

    vllm: Sequence[str]  # the program that starts vLLM
    device: DeviceKind
    environment: Mapping[str, str]  # what it inherits


@dataclass(frozen=True)
class Place:
    """Where one engine is: its spec, laid out for this machine, its directory and its log."""

    model: Model
    directory: Path
    log_file: Path

    @property
    def socket(self) -> str:
        return str(self.directory / SOCKET_NAME)


class Member:
    """One model of the fleet: its engines, and the pool in front of them."""

    def __init__(
        self,
        model: Model,
        places: Sequence[Place],
        folder: str,
        program: Program,
        *,
        events: Events | None = None,
        turn: asyncio.Lock | None = None,
        tracing: "Tracing | None" = None,
        shared: "SharedCache | None" = None,
    ) -> None:
        """`folder` is what vLLM is given as --model; `turn` is held during each start."""
        if shared and not weights.is_pinned(model):
            log.warning(
                "%s: its scores are not shared, as another server's files may be others: pin them"
                " by `%s:` in its YAML",
                model.name,
                "sha256" if model.is_local else "revision",
            )
            shared = None
        replicas = [
            Replica(Engine(place.socket, tracing), index, since=time.monotonic())
            for index, place in enumerate(places)
        ]
        self.pool = Pool(model, replicas, events, shared)
        self.log_files = [place.log_file for place in places]
        self._folder = folder
        self._program = program
        self._identities: dict[Engine, bytes] = {}
        self._supervisors = [
            self._supervisor(place, replica, events, turn)
            for place, replica in zip(places, replicas, strict=True)
        ]

    def _supervisor(
        self, place: Place, replica: Replica, events: Events | None, turn: asyncio.Lock | None
    ) -> Supervisor:
        program, name = self._program, self.pool.name
        command = argv.build(
            place.model,
            weights=self._folder,
            socket=place.socket,
            device=program.device,
            vllm=program.vllm,
        )
        environment = {**program.environment, **command.env}
        return Supervisor(
            place.model,
            replica,
            command,
            label=name if len(self.pool.replicas) == 1 else f"{name}/{replica.index}",
            directory=place.directory,
            log_file=place.log_file,
            environment=program.environment,
            events=events,
            learn=lambda proof_s: self._learn(replica.engine, proof_s, environment),
            turn=turn,
        )

    async def run(self) -> None:
        """The check that takes time, then the engines, for ever. Raises ServeError."""
        try:
            await asyncio.to_thread(weights.verify, self._folder, self.pool.model.sha256)
        except ConfigError as error:
            for supervisor in self._supervisors:
                supervisor.fail()
            raise ConfigError(f"{self.pool.name}: {error}") from error
        engines = _all([supervisor.run() for supervisor in self._supervisors], "replicas")
        await _gather([engines, self.pool.dispatch.watch()])

    async def restart(self) -> bool:
        """Restarts the engines, one by one, without the loss of a request; whether all came back.

        Those that are starting come first, since then others can take their work. Where one does
        not come back, the rest stay as they are. One that was given up before is passed over.
        """
        both = [
            (supervisor, replica)
            for supervisor, replica in zip(self._supervisors, self.pool.replicas, strict=True)
            if replica.progress.phase != "failed"
        ]
        for supervisor, replica in sorted(both, key=lambda pair: pair[1].is_ready):
            if not await supervisor.restart(self.pool.timeout_s):
                log.error("%s/%d did not come back: the rest stay", self.pool.name, replica.index)
                return False
        return True

    async def _learn(self, engine: Engine, proof_s: float, environment: Mapping[str, str]) -> None:
        """Tells the pool how fast its model is, how it reads and which it is, as an engine of it
        has started."""
        pairs, size = len(WARM_UP.passages), size_of(WARM_UP)
        self.pool.dispatch.pace.guess(pairs, size, proof_s, len(self.pool.replicas))
        reading, model = self.pool.reading, self.pool.model
        learnt = await engine.max_model_len()
        reading.max_model_len = learnt or model.max_model_len
        if reading.lengths is None:  # else another engine, or a restart
            await self._learn_tokenizer(environment)
        is_read = reading.lengths is not None
        more = (self._program.device, await engine.version(), reading.max_model_len, is_read)
        self._identities[engine] = weights.identity(model, self._folder, more)
        # While engines are restarted with something new, scores are of the old and of the new.
        self.pool.reuse.identify(b"".join(sorted(set(self._identities.values()))))

    async def _learn_tokenizer(self, environment: Mapping[str, str]) -> None:
        reading, model = self.pool.reading, self.pool.model
        file = weights.tokenizer_file(model, self._folder, environment)
        try:
            if file is None:
                raise ValueError("there is no tokenizer.json")
            template = weights.template(model)
            await reading.learn(file, template, is_pair=model.score.of == "logit")
        except (ValueError, OSError) as error:
            log.warning(
                "%s: its tokenizer cannot be read (%s): only the usual special tokens are"
                " neutralised in texts, and nobody is told what is cut",
                model.name,
                error,
            )


async def run(members: Sequence[Member]) -> None:
    """Runs every engine. Raises ConfigError and StartError when none is left."""
    await _all([member.run() for member in members], "models")


async def restart(members: Sequence[Member]) -> bool:
    """Restarts every engine, one at a time in all, so that the machine is not overloaded; whether
    all came back."""
    return all([await member.restart() for member in members])


async def _all(runs: Sequence[Coroutine[None, None, None]], what: str) -> None:
    """Runs them all. One that fails leaves the others; with the last one, its error is raised."""
    failed: list[ServeError] = []

    async def one(run: Coroutine[None, None, None]) -> None:
        try:
            await run
        except ServeError as error:
            failed.append(error)
            if len(failed) == len(runs):
                raise
            log.error("error: %s; the other %s go on", error, what)

    await _gather([one(run) for run in runs])


async def _gather(runs: Sequence[Coroutine[None, None, None]]) -> None:
    """Runs them together. When one raises, the others are ended."""
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:  # each is cancelled once: a second time would cut its engine's stop short
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
