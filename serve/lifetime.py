"""A server's life: signals, reloading, and a stop that finishes what is in flight."""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine

import uvicorn

from serve.errors import ConfigError
from serve.gateway import Gateway
from serve.racing import first

log = logging.getLogger(__name__)

LAST_ANSWERS_S = 2.0  # for those that the end of the grace period has cut short


class Signals:
    """`stop` is set by SIGINT and SIGTERM, `reload` by SIGHUP."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number, event in (
            (signal.SIGINT, self.stop),
            (signal.SIGTERM, self.stop),
            (signal.SIGHUP, self.reload),
        ):
            loop.add_signal_handler(number, event.set)


async def until_stopped(
    server: uvicorn.Server,
    gateway: Gateway,
    listener: socket.socket,
    engines: Coroutine[None, None, None],
    renew: Callable[[], None],
    roll: Callable[[], Awaitable[bool]],
    signals: Signals,
    grace_s: float,
) -> None:
    """Runs gateway and engines until a signal comes or they fail, then ends them.

    At a signal to reload `renew` is called at once, then `roll`, which takes its time. `renew` may
    raise ConfigError.
    """
    http = asyncio.create_task(server.serve(sockets=[listener]))
    supervision = asyncio.create_task(engines)
    reloading = asyncio.create_task(_reload_when_told(signals, renew, roll))
    stopped = asyncio.create_task(signals.stop.wait())
    tasks = {http, supervision, reloading, stopped}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            reloading.cancel()  # engines that have work must not be taken from it now
            await asyncio.wait({reloading})
            await _drain(gateway, grace_s, signals)
    finally:
        server.should_exit = True
        for task in tasks - {http}:
            task.cancel()
        await asyncio.wait(tasks)
    for task in (reloading, supervision, http):
        if not task.cancelled():
            task.result()


async def _reload_when_told(
    signals: Signals, renew: Callable[[], None], roll: Callable[[], Awaitable[bool]]
) -> None:
    wanted = asyncio.Event()
    rolling = asyncio.create_task(_roll_when_wanted(wanted, roll))
    try:
        while True:
            await signals.reload.wait()
            signals.reload.clear()
            log.info("reloading")
            try:
                renew()
            except ConfigError as error:
                log.error("nothing was reloaded: %s", error)
            except Exception:  # no reason to stop serving
                log.exception("nothing was reloaded")
            else:
                wanted.set()
    finally:
        rolling.cancel()
        await asyncio.wait({rolling})


async def _roll_when_wanted(wanted: asyncio.Event, roll: Callable[[], Awaitable[bool]]) -> None:
    """One roll at a time; however often it is wanted meanwhile, once more."""
    while True:
        await wanted.wait()
        wanted.clear()
        if await roll():
            log.info("reloaded")


async def _drain(gateway: Gateway, grace_s: float, signals: Signals) -> None:
    """Admits nothing more and waits for what is in flight; a second signal ends the wait. What is
    left then is answered that the server has stopped."""
    gateway.drain()
    signals.stop.clear()
    log.info("stopping: %d requests in flight", gateway.in_flight)
    done = await first({"idle": gateway.idle.wait(), "again": signals.stop.wait()}, grace_s)
    if "idle" not in done:
        gateway.end()
        await first({"idle": gateway.idle.wait()}, LAST_ANSWERS_S)
