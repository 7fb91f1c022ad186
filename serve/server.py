"""Puts the pieces together: socket, private directory, engines, gateway, signals."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from serve import argv, door, fleet, machine, renewal, tls, weights
from serve.auth import Key, Keys
from serve.catalog import Catalog
from serve.cors import Cors
from serve.errors import StartError
from serve.fleet import Place
from serve.gateway import Gateway
from serve.home import Home
from serve.lifetime import Signals, until_stopped
from serve.logs import AccessLog
from serve.metrics import Metrics
from serve.protocol import Protocol
from serve.stack import Stack

if TYPE_CHECKING:
    from serve.shared_cache import SharedCache
    from serve.traces import Tracing

log = logging.getLogger(__name__)

DEFAULT_PORT = 8000
BACKLOG = 2048
KEEPALIVE_S = 75


@dataclass(frozen=True)
class Options:
    """What the command line says beside what to serve."""

    host: str
    port: int
    keys: Keys
    read_keys: Callable[[], Iterable[Key]]  # anew; may raise ConfigError
    run_dir: Path
    program: fleet.Program
    tls: ssl.SSLContext | None = None  # without it, plain HTTP
    tls_files: tuple[Path, Path] | None = None  # certificate and key, which `tls` was made of
    origins: Collection[str] = ()  # whose pages may use this server
    access_log: float = 0.0  # the share of requests that the log tells of
    otlp_endpoint: str | None = None  # where traces are sent
    cache_redis: str | None = None  # the URL of the cache that is shared with other servers


async def run(stack: Stack, options: Options) -> None:
    """Serves `stack` until a signal. Raises ConfigError and StartError; leaves nothing behind."""
    device = options.program.device
    stack = _traced(stack, options.otlp_endpoint).on(device, machine.cores(), machine.apart())
    folders = [weights.locate(model) for model in stack.models]
    signals = Signals()
    metrics = Metrics()
    shared = _shared_cache(options.cache_redis, metrics)
    with ExitStack() as resources:
        tracing = resources.enter_context(_tracing(options.otlp_endpoint))
        listener = resources.enter_context(listen(options.host, options.port))
        home = resources.enter_context(Home(options.run_dir, listener.getsockname()[1]))
        if device == "cpu":
            machine.check_memory(stack.memory_gib, machine.available_memory_gib())
        members = _members(stack, folders, options, home, metrics, tracing, shared, resources)
        url = _url(listener, options.tls)
        for member in members:
            logs = ", ".join(map(str, member.log_files))
            log.info("%s on %s; vLLM's log: %s", member.pool.name, url, logs)
        catalog = Catalog(stack, [member.pool for member in members])
        gateway = _gateway(catalog, options, metrics, tracing)
        grace_s = max(model.limits.stop_timeout_s for model in stack.models)

        def renew() -> None:
            keys = list(options.read_keys())
            Keys(keys)  # which may raise, and then nothing has changed
            if options.tls and options.tls_files:
                tls.reload(options.tls, *options.tls_files)
            options.keys.replace(keys)

        sharing = shared.running() if shared else nullcontext()
        watching = renewal.watching(options.tls, options.tls_files)
        async with sharing, aclosing(gateway), watching:
            most = door.room(door.raise_descriptors(), sum(map(len, stack.engines)))
            server = door.HttpServer(_http_config(gateway, options), most)
            await until_stopped(
                server,
                gateway,
                listener,
                fleet.run(members),
                renew,
                partial(fleet.restart, members),
                signals,
                grace_s,
            )


def _members(
    stack: Stack,
    folders: Sequence[str],
    options: Options,
    home: Home,
    metrics: Metrics,
    tracing: "Tracing | None",
    shared: "SharedCache | None",
    resources: ExitStack,
) -> list[fleet.Member]:
    """Every model of the stack; its engines are numbered over all of them."""
    device = options.program.device
    # vLLM measures a GPU's free memory while it starts, so no two may start at once.
    turn = asyncio.Lock() if device == "gpu" else None
    members, numbers = [], count()
    for model, engines, folder in zip(stack.models, stack.engines, folders, strict=True):
        places = [
            Place(engine, resources.enter_context(home.engine(number)), home.log(number))
            for engine, number in zip(engines, numbers, strict=False)
        ]
        member = fleet.Member(
            model,
            places,
            folder,
            options.program,
            events=metrics,
            turn=turn,
            tracing=tracing,
            shared=shared,
        )
        resources.callback(member.pool.close)
        members.append(member)
        if device == "cpu" and model.llm:
            log.warning("%s: an LLM reranker is slow on a CPU; no GPU is used", model.name)
    return members


def _traced(stack: Stack, endpoint: str | None) -> Stack:
    """The stack with engines that send their spans to `endpoint` too."""
    if endpoint is None:
        return stack
    return replace(stack, models=[argv.traced(model, endpoint) for model in stack.models])


def _gateway(
    catalog: Catalog, options: Options, metrics: Metrics, tracing: "Tracing | None"
) -> Gateway:
    return Gateway(
        catalog,
        keys=options.keys,
        origins=options.origins,
        metrics=metrics,
        access_log=AccessLog(options.access_log),
        tracing=tracing,
    )


@contextmanager
def _tracing(endpoint: str | None) -> "Iterator[Tracing | None]":
    """What makes traces, if there is somewhere to send them. Raises StartError."""
    if endpoint is None:
        yield None
        return
    try:
        from serve.traces import Tracing  # whose packages cost memory and a moment
    except ImportError as error:
        raise StartError(
            f"traces need the packages opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http"
            f" ({error}): install them, or start without an OTLP endpoint"
        ) from error
    with closing(Tracing(endpoint)) as tracing:
        yield tracing


def _shared_cache(url: str | None, metrics: Metrics) -> "SharedCache | None":
    """The cache that is shared with other servers, if there is one. Raises ConfigError and
    StartError."""
    if url is None:
        return None
    try:
        from serve.shared_cache import SharedCache  # whose package costs memory and a moment
    except ImportError as error:
        raise StartError(
            f"a shared cache needs the package redis ({error}): install it, or start without"
            " --cache-redis"
        ) from error
    return SharedCache(url, metrics)


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


def _http_config(gateway: Gateway, options: Options) -> uvicorn.Config:
    config = uvicorn.Config(
        Cors(gateway, options.origins) if options.origins else gateway,
        loop="none",
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
    )
    config.load()  # which sets `ssl` from paths, if at all
    config.ssl = options.tls
    return config


def _url(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    scheme = "https" if tls else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
