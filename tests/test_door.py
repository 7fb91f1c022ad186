"""Who is let in: no more connections than there is room for, and no handshake without end."""

import asyncio
import json
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from serve import tls
from serve.door import MOST_CONNECTIONS, Door, raise_descriptors, room
from serve.protocol import Protocol
from tests.certificates import Certificate, self_signed
from tests.harness import ROOT
from tests.test_protocol import echo, request

MOST = 3


@pytest.mark.parametrize(
    ("descriptors", "engines", "expected"),
    [
        (2**31, 1, MOST_CONNECTIONS),
        (2**31, 8, MOST_CONNECTIONS),
        (20_000, 1, MOST_CONNECTIONS),
        (20_000, 8, 2208),
        (4096, 1, 1984),
        (1024, 1, 448),
        (1024, 3, 224),
        (64, 1, 1),
    ],
)
def test_every_client_can_have_a_connection_to_each_engine(
    descriptors: int, engines: int, expected: int
):
    assert room(descriptors, engines) == expected


def test_as_many_descriptors_are_taken_as_may_be():
    code = "from serve.door import raise_descriptors as r; print(r(), r())"
    command = ["sh", "-c", f'ulimit -Sn 100; ulimit -Hn 500; exec "$0" -c "{code}"', sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "500 500\n", done.stderr
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_descriptors() == before[1] or before[1] == resource.RLIM_INFINITY


# -- the door itself ---------------------------------------------------------------------------


class Quick(Protocol):
    """One that loses its patience soon."""

    head_s = 0.2


class House:
    """A door, and what is behind it."""

    def __init__(self, context: ssl.SSLContext | None, handshake_s: float, kind: Any) -> None:
        config = uvicorn.Config(echo, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        self.state = ServerState()
        self.writers: list[asyncio.StreamWriter] = []
        make = partial(kind, config=config, server_state=self.state, app_state={})
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = self.listener.getsockname()
        self.door = Door(
            self.listener,
            make,
            self.state.connections,
            MOST,
            tls=context,
            handshake_s=handshake_s,
        )

    async def connect(self, context: ssl.SSLContext | None = None) -> Any:
        reader, writer = await asyncio.open_connection(*self.address, ssl=context)
        self.writers.append(writer)
        return reader, writer

    def has(self, number: int) -> bool:
        """Whether so many are inside, and nobody stands in the door."""
        return len(self.state.connections) == number and not self.door._arriving

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(
    context: ssl.SSLContext | None = None, handshake_s: float = 15, kind: Any = Protocol
) -> AsyncIterator[House]:
    house = House(context, handshake_s, kind)
    try:
        async with asyncio.timeout(30):
            yield house
    finally:
        house.door.close()
        await house.door.wait_closed()
        house.listener.close()
        for transport in (
            *(connection.transport for connection in house.state.connections),
            *(writer.transport for writer in house.writers),
        ):
            transport.abort()
        await asyncio.sleep(0.01)


def run(work: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first loop of a process opens a pipe for all of them."""
    run(asyncio.sleep(0))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificate"), "door")


def test_who_finds_no_room_is_told_so_and_may_come_when_another_goes(
    caplog: pytest.LogCaptureFixture,
):
    async def work() -> None:
        async with opened() as house:
            inside = []
            for number in range(MOST):
                inside.append(await house.connect())
                await house.until(partial(house.has, number + 1))
            for _ in range(5):
                reader, writer = await house.connect()
                writer.write(request(b"hello"))
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n")
                assert "connections are open" in json.loads(body)["message"]
            assert len(caplog.records) == 1  # though five were refused
            inside[0][1].close()
            await house.until(partial(house.has, MOST - 1))
            for reader, writer in [*inside[1:], await house.connect()]:
                writer.write(request(b"hello", b"Connection: close\r\n"))
                assert (await reader.read()).endswith(b"\r\n\r\nhello")

    before = open_files()
    run(work())
    assert open_files() <= before


def test_many_at_once_are_answered_or_refused():
    async def ask(house: House) -> bytes:
        reader, writer = await house.connect()
        writer.write(request(b"hello", b"Connection: close\r\n"))
        answer = await reader.read()
        return answer[9:12]

    async def work() -> None:
        async with opened() as house:
            statuses = await asyncio.gather(*(ask(house) for _ in range(300)))
            assert set(statuses) <= {b"200", b"503"} and b"200" in statuses

    before = open_files()
    run(work())
    assert open_files() <= before


def test_a_handshake_takes_a_place_and_has_its_time(certificate: Certificate):
    async def work() -> None:
        async with opened(tls.context(certificate.pem, certificate.key), 2) as house:
            silent = [await house.connect() for _ in range(MOST)]
            reader, writer = await house.connect()
            assert await reader.read() == b""  # no room, and no words before a handshake
            for reader, _ in silent:
                assert await reader.read() == b""  # dropped when its time is over
            await house.until(partial(house.has, 0))
            context = ssl.create_default_context(cafile=certificate.pem)
            reader, writer = await house.connect(context)
            writer.write(request(b"hello", b"Connection: close\r\n"))
            assert (await reader.read()).endswith(b"\r\n\r\nhello")

    before = open_files()
    run(work())
    assert open_files() <= before


def test_the_handshake_counts_for_the_head(certificate: Certificate):
    """Who speaks TLS and then nothing more is let go by a time that counts from the connection."""

    async def work() -> None:
        context = tls.context(certificate.pem, certificate.key)
        async with opened(context, 15, Quick) as house:
            reader, _ = await house.connect(ssl.create_default_context(cafile=certificate.pem))
            assert await reader.read() == b""

    run(work())


def test_a_door_that_closes_waits_for_no_handshake(certificate: Certificate):
    async def work() -> None:
        async with opened(tls.context(certificate.pem, certificate.key), 3600) as house:
            reader, _ = await house.connect()
            await house.until(lambda: house.door._arriving)
            house.door.close()
            await house.door.wait_closed()
            assert await reader.read() == b""

    before = open_files()
    run(work())
    assert open_files() <= before


def test_what_is_no_tls_leaves_nothing(certificate: Certificate):
    async def work() -> None:
        async with opened(tls.context(certificate.pem, certificate.key)) as house:
            for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff", b""):
                for _ in range(MOST + 2):  # each of them would take a place
                    reader, writer = await house.connect()
                    writer.write(words)
                    writer.write_eof()
                    await reader.read()
                    await house.until(lambda: not house.door._arriving)

    before = open_files()
    run(work())
    assert open_files() <= before
