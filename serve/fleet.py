"""Every engine of a stack: what starts it, what its pool learns of it, that it may fail alone."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve import argv, weights
from serve.engine import Engine
from serve.errors import ConfigError, ServeError
from serve.pool import Pool, Replica
from serve.spec import DeviceKind, Model
from serve.supervise import Supervisor

log = logging.getLogger(__name__)

SOCKET_NAME = "http.sock"


@dataclass(frozen=True)
class Program:
    """What every engine is started with."""

    vllm: Sequence[str]  # the program that starts vLLM
    device: DeviceKind
    environment: Mapping[str, str]  # what it inherits


class Member:
    """One engine of the fleet, and the pool in front of it."""

    def __init__(
        self,
        model: Model,
        folder: str,
        program: Program,
        *,
        directory: Path,
        log_file: Path,
        turn: asyncio.Lock | None,
    ) -> None:
        """`folder` is what vLLM is given as --model, `directory` the engine's own; `turn` is held
        during each start."""
        socket = str(directory / SOCKET_NAME)
        command = argv.build(
            model, weights=folder, socket=socket, device=program.device, vllm=program.vllm
        )
        self.pool = Pool(model, [Replica(Engine(socket), since=time.monotonic())])
        self._folder = folder
        self._environment = {**program.environment, **command.env}
        self._supervisor = Supervisor(
            model,
            self.pool.replicas[0],
            command,
            directory=directory,
            log_file=log_file,
            environment=program.environment,
            learn=self._learn,
            turn=turn,
        )

    async def run(self) -> None:
        """The check that takes time, then the engine, for ever. Raises ServeError."""
        try:
            await asyncio.to_thread(weights.verify, self._folder, self.pool.model.sha256)
        except ConfigError as error:
            self._supervisor.fail()
            raise ConfigError(f"{self.pool.name}: {error}") from error
        await self._supervisor.run()

    async def _learn(self) -> None:
        """Tells the pool how its model reads, now that the engine has its files."""
        reading, model = self.pool.reading, self.pool.model
        learnt = await self.pool.replicas[0].engine.max_model_len()
        reading.max_model_len = learnt or model.max_model_len
        if reading.lengths is not None:  # a restart
            return
        file = weights.tokenizer_file(model, self._folder, self._environment)
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
    """Runs every engine. One that fails leaves the others; with the last one, its error is raised.

    Raises ConfigError and StartError.
    """
    failed: list[ServeError] = []

    async def one(member: Member) -> None:
        try:
            await member.run()
        except ServeError as error:
            failed.append(error)
            if len(failed) == len(members):
                raise
            log.error("error: %s; the other models go on", error)

    tasks = [asyncio.create_task(one(member)) for member in members]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
