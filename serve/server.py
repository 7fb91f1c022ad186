"""Puts the pieces together: socket, private directory, engine, gateway, signals."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from serve import argv, machine, weights
from serve.auth import Keys
from serve.engine import Engine
from serve.errors import StartError
from serve.gateway import Gateway
from serve.home import Home
from serve.pool import Pool, Replica
from serve.spec import Model
from serve.supervise import Supervisor

log = logging.getLogger(__name__)

DEFAULT_PORT = 8000
SOCKET_NAME = "http.sock"
BACKLOG = 2048
KEEPALIVE_S = 75


@dataclass(frozen=True)
class Options:
    """What the command line says beside the model."""

    host: str
    port: int
    keys: Sequence[str]
    run_dir: Path
    device: argv.DeviceKind
    vllm: Sequence[str]  # the program that starts vLLM
    environment: Mapping[str, str]  # what engines inherit


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would raise the signal anew once it has stopped,
    and nothing behind it would run. Ours are installed before any engine is started."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(model: Model, options: Options) -> None:
    """Serves `model` until a signal. Raises ConfigError and StartError; leaves nothing behind."""
    folder = weights.locate(model)
    stopping = _stop_event()
    with ExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        port = listener.getsockname()[1]
        home = stack.enter_context(Home(options.run_dir, port))
        directory = stack.enter_context(home.engine(0))
        command = argv.build(
            model,
            weights=folder,
            socket=str(directory / SOCKET_NAME),
            device=options.device,
            vllm=options.vllm,
        )
        replica = Replica(Engine(str(directory / SOCKET_NAME)), since=time.monotonic())
        supervisor = Supervisor(
            model,
            replica,
            command,
            directory=directory,
            log_file=home.log(0),
            environment=options.environment,
        )
        gateway = Gateway([Pool(model, [replica])], keys=Keys(options.keys))
        log.info("%s on %s; vLLM's log: %s", model.name, _url(listener), home.log(0))
        try:
            await _until_stopped(
                gateway, listener, model, _engine(model, folder, options, supervisor), stopping
            )
        finally:
            replica.engine.close()


async def _engine(model: Model, folder: str, options: Options, supervisor: Supervisor) -> None:
    """The checks that take time, then the engine, for ever."""
    if options.device == "cpu":
        machine.check_memory(model.hardware, machine.available_memory_gib())
    await asyncio.to_thread(weights.verify, folder, model.sha256)
    await supervisor.run()


async def _until_stopped(
    gateway: Gateway,
    listener: socket.socket,
    model: Model,
    engine: Coroutine[None, None, None],
    stopping: asyncio.Event,
) -> None:
    """Runs gateway and engine until a signal comes or one of them fails, then ends both."""
    server = _HttpServer(_http_config(gateway))
    http = asyncio.create_task(server.serve(sockets=[listener]))
    supervision = asyncio.create_task(engine)
    signalled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({http, supervision, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            await _drain(gateway, model.limits.stop_timeout_s, stopping)
    finally:
        server.should_exit = True
        for task in (supervision, signalled):
            task.cancel()
        await asyncio.wait({http, supervision, signalled})
    for task in (supervision, http):
        if not task.cancelled():
            task.result()


async def _drain(gateway: Gateway, grace_s: float, stopping: asyncio.Event) -> None:
    """Admits nothing more and waits for what is in flight; a second signal ends the wait."""
    gateway.is_draining = True
    stopping.clear()
    log.info("stopping: %d requests in flight", gateway.in_flight)
    idle = asyncio.create_task(gateway.idle.wait())
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait({idle, again}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    again.cancel()


def _stop_event() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening TCP socket. Raises StartError when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "not a host")
        raise StartError(f"--host {host}: {reason}; give an address of this machine") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise StartError(
                f"cannot listen on {host}:{port}: {reason}; choose another --port (PORT=… with"
                " make), or stop what holds it (`make stop` if it is this server)"
            ) from error
        yield listener


def _http_config(gateway: Gateway) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
