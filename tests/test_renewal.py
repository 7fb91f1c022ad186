"""Certificates that are renewed while the server runs, seen by who connects."""

import asyncio
import logging
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from serve import renewal, tls
from serve.errors import ConfigError
from tests.certificates import EC, RSA, Certificate, self_signed
from tests.harness import Server, wait_until, write_config

T = TypeVar("T")
FAST_S = 0.02  # between two looks
PATIENCE_S = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Certificate]:
    """Three certificates, the last of another kind."""
    folder = tmp_path_factory.mktemp("certificates")
    return [self_signed(folder, f"c{n}", kind=kind) for n, kind in enumerate((EC, EC, RSA))]


def put(certificate: Certificate, place: Certificate) -> None:
    """Has `certificate` stand at `place`, as certbot and the like do it."""
    for source, target in ((certificate.pem, place.pem), (certificate.key, place.key)):
        beside = target.with_name("new")
        shutil.copy(source, beside)
        beside.replace(target)


@pytest.fixture
def place(tmp_path: Path, made: list[Certificate]) -> Certificate:
    """The files of a server, which have the first of those."""
    found = Certificate(tmp_path / "server.pem", tmp_path / "server.key")
    put(made[0], found)
    return found


def shown(port: int, name: str | None = None, *, most: ssl.TLSVersion | None = None) -> bytes:
    """The certificate that a new connection gets. Without a `name`, none is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if most:
        context.maximum_version = most
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


@dataclass(frozen=True)
class Echo:
    """A TLS server that gives back each line."""

    context: ssl.SSLContext
    port: int

    async def shown(self, name: str | None = None, **more: ssl.TLSVersion) -> bytes:
        return await asyncio.to_thread(shown, self.port, name, **more)

    async def until_shown(self, certificate: Certificate) -> None:
        for _ in range(int(PATIENCE_S / FAST_S)):
            if await self.shown() == certificate.der:
                return
            await asyncio.sleep(FAST_S)
        raise AssertionError("it still shows another certificate")


@asynccontextmanager
async def serving(place: Certificate) -> AsyncIterator[Echo]:
    context = tls.context(place.pem, place.key)
    assert context

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # whoever looked has gone
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield Echo(context, server.sockets[0].getsockname()[1])
    finally:
        server.close()


@asynccontextmanager
async def watched(place: Certificate) -> AsyncIterator[Echo]:
    async with serving(place) as echo:
        watcher = asyncio.create_task(renewal.watch(echo.context, place.pem, place.key, FAST_S))
        try:
            yield echo
        finally:
            assert not watcher.done(), watcher
            watcher.cancel()


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


# -- once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [None, "localhost"])
def test_new_connections_get_the_new_one(
    place: Certificate, made: list[Certificate], name: str | None, most: ssl.TLSVersion
):
    """One of another kind too, to clients that would take either."""

    async def work() -> None:
        async with serving(place) as echo:
            assert await echo.shown(name, most=most) == made[0].der
            for certificate in (made[1], made[2], made[0]):
                put(certificate, place)
                tls.reload(echo.context, place.pem, place.key)
                assert await echo.shown(name, most=most) == certificate.der

    run(work)


def test_connections_that_are_there_go_on(place: Certificate, made: list[Certificate]):
    async def work() -> None:
        async with serving(place) as echo:
            trusting = ssl.create_default_context(cafile=made[0].pem)
            reader, writer = await asyncio.open_connection("127.0.0.1", echo.port, ssl=trusting)
            put(made[1], place)
            tls.reload(echo.context, place.pem, place.key)
            assert await echo.shown() == made[1].der
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
            writer.close()

    run(work)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("which", ["pem", "key"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, r"damaged|no private key in PEM|no certificate in PEM|OpenSSL says"),
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: path.write_bytes(b""), "in PEM is in it"),
        (fifo, "a pipe cannot be read again: give a file"),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    place: Certificate,
    made: list[Certificate],
    which: str,
    harm: Callable[[Path], object],
    words: str,
):
    async def work() -> None:
        async with serving(place) as echo:
            put(made[1], place)
            tls.reload(echo.context, place.pem, place.key)
            put(made[2], place)
            harm(getattr(place, which))
            with pytest.raises(ConfigError, match=words):
                tls.reload(echo.context, place.pem, place.key)
            assert await echo.shown() == made[1].der

    run(work)


def test_a_certificate_without_its_key_changes_nothing(place: Certificate, made: list[Certificate]):
    async def work() -> None:
        async with serving(place) as echo:
            shutil.copy(made[1].pem, place.pem)
            with pytest.raises(ConfigError, match="it is not the key of"):
                tls.reload(echo.context, place.pem, place.key)
            assert await echo.shown() == made[0].der

    run(work)


# -- again and again -----------------------------------------------------------------------------


def test_files_are_watched(
    place: Certificate, made: list[Certificate], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "serve.renewal")

    async def work() -> None:
        async with watched(place) as echo:
            for certificate in (made[1], made[2], made[0]):
                put(certificate, place)
                await echo.until_shown(certificate)

    run(work)
    told = f"new connections get the certificate in {place.pem}"
    assert told in [record.getMessage() for record in caplog.records]


def test_links_that_are_turned_around_are_seen(tmp_path: Path, made: list[Certificate]):
    """Kubernetes does it so."""
    for number, certificate in enumerate(made):
        (tmp_path / str(number)).mkdir()
        put(
            certificate, Certificate(tmp_path / str(number) / "pem", tmp_path / str(number) / "key")
        )
    current = tmp_path / "current"
    current.symlink_to("0")

    async def work() -> None:
        async with watched(Certificate(current / "pem", current / "key")) as echo:
            for number in (1, 2):
                (tmp_path / "next").symlink_to(str(number))
                (tmp_path / "next").replace(current)
                await echo.until_shown(made[number])

    run(work)


def test_what_changed_before_the_watch_began_is_seen(place: Certificate, made: list[Certificate]):
    async def work() -> None:
        async with serving(place) as echo:
            put(made[1], place)
            watcher = asyncio.create_task(renewal.watch(echo.context, place.pem, place.key, 3600))
            await echo.until_shown(made[1])
            watcher.cancel()

    run(work)


def test_a_broken_file_is_told_of_once_for_each_change(
    place: Certificate, made: list[Certificate], caplog: pytest.LogCaptureFixture
):
    def errors() -> list[str]:
        found = [record for record in caplog.records if record.name == "serve.renewal"]
        return [record.getMessage() for record in found if record.levelno == logging.ERROR]

    async def until(many: int) -> None:
        for _ in range(int(PATIENCE_S / FAST_S)):
            if len(errors()) >= many:
                break
            await asyncio.sleep(FAST_S)
        await asyncio.sleep(10 * FAST_S)  # in which it looks some times more
        assert len(errors()) == many, errors()

    async def work() -> None:
        async with watched(place) as echo:
            await asyncio.sleep(5 * FAST_S)
            for many, text in enumerate(("nothing", "nothing at all"), 1):
                beside = place.pem.with_name("beside")
                beside.write_text(text)
                beside.replace(place.pem)
                await until(many)
                assert await echo.shown() == made[0].der
            place.pem.unlink()
            await until(3)
            put(made[1], place)
            await echo.until_shown(made[1])

    run(work)
    assert errors()[2].startswith("the certificate is not renewed, the old one goes on: --tls-cert")
    assert "cannot be read: No such file" in errors()[2]


def test_the_server_itself(place: Certificate, made: list[Certificate], tmp_path: Path):
    both = tmp_path / "both.pem"
    both.write_text(made[0].pem.read_text() + made[1].pem.read_text())
    config = write_config(tmp_path)
    with Server(config, tmp_path, *place.arguments, trusting=both) as server:
        port = int(server.until_ready().url.rsplit(":", 1)[1])
        assert shown(port) == made[0].der
        put(made[1], place)
        wait_until(lambda: shown(port) == made[1].der, 60, server.text)
        assert len(server.rerank("q", ["a"])) == 1
        server.process.terminate()
        assert server.wait() == 0
    assert f"new connections get the certificate in {place.pem}" in server.text()
    assert "Traceback" not in server.text()


def test_there_is_nothing_to_watch_without_tls():
    async def work() -> None:
        before = len(asyncio.all_tasks())
        async with renewal.watching(None, None):
            assert len(asyncio.all_tasks()) == before

    run(work)


def test_a_watch_ends_with_its_block(place: Certificate):
    async def work() -> None:
        before = len(asyncio.all_tasks())
        context = tls.context(place.pem, place.key)
        async with renewal.watching(context, (place.pem, place.key)):
            assert len(asyncio.all_tasks()) == before + 1
        assert len(asyncio.all_tasks()) == before

    run(work)
