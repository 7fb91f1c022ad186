"""Puts the pieces together: socket, private directory, engines, gateway, signals."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from serve import fleet, machine, weights
from serve.auth import Keys
from serve.catalog import Catalog
from serve.errors import StartError
from serve.gateway import Gateway
from serve.home import Home
from serve.protocol import Protocol
from serve.stack import Stack

log = logging.getLogger(__name__)

DEFAULT_PORT = 8000
BACKLOG = 2048
KEEPALIVE_S = 75


@dataclass(frozen=True)
class Options:
    """What the command line says beside what to serve."""

    host: str
    port: int
    keys: Sequence[str]
    run_dir: Path
    program: fleet.Program
    tls: ssl.SSLContext | None = None  # without it, plain HTTP


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would raise the signal anew once it has stopped,
    and nothing behind it would run. Ours are installed before any engine is started."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(stack: Stack, options: Options) -> None:
    """Serves `stack` until a signal. Raises ConfigError and StartError; leaves nothing behind."""
    device = options.program.device
    stack = stack.on(device, machine.cores())
    folders = [weights.locate(model) for model in stack.models]
    stopping = _stop_event()
    # vLLM measures a GPU's free memory while it starts, so no two may start at once.
    turn = asyncio.Lock() if device == "gpu" else None
    with ExitStack() as resources:
        listener = resources.enter_context(listen(options.host, options.port))
        home = resources.enter_context(Home(options.run_dir, listener.getsockname()[1]))
        if device == "cpu":
            needs = {model.name: model.hardware.memory_gib for model in stack.models}
            machine.check_memory(needs, machine.available_memory_gib())
        members = []
        for index, (model, folder) in enumerate(zip(stack.models, folders, strict=True)):
            directory, log_file = resources.enter_context(home.engine(index)), home.log(index)
            member = fleet.Member(
                model, folder, options.program, directory=directory, log_file=log_file, turn=turn
            )
            resources.callback(member.pool.close)
            members.append(member)
            log.info("%s on %s; vLLM's log: %s", model.name, _url(listener, options.tls), log_file)
            if device == "cpu" and model.llm:
                log.warning("%s: an LLM reranker is slow on a CPU; no GPU is used", model.name)
        catalog = Catalog(stack, [member.pool for member in members])
        gateway = Gateway(catalog, keys=Keys(options.keys))
        grace_s = max(model.limits.stop_timeout_s for model in stack.models)
        async with aclosing(gateway):
            server = _HttpServer(_http_config(gateway, options.tls))
            await _until_stopped(server, gateway, listener, fleet.run(members), grace_s, stopping)


async def _until_stopped(
    server: uvicorn.Server,
    gateway: Gateway,
    listener: socket.socket,
    engines: Coroutine[None, None, None],
    grace_s: float,
    stopping: asyncio.Event,
) -> None:
    """Runs gateway and engines until a signal comes or they fail, then ends them."""
    http = asyncio.create_task(server.serve(sockets=[listener]))
    supervision = asyncio.create_task(engines)
    signalled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({http, supervision, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            await _drain(gateway, grace_s, stopping)
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
    gateway.drain()
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


def _http_config(gateway: Gateway, tls: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        gateway,
        loop="none",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
    )
    config.load()  # which sets `ssl` from paths, if at all
    config.ssl = tls
    return config


def _url(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    scheme = "https" if tls else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
