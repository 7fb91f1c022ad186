"""The fake engine itself: the speed, the faults and the cancellations that other tests build on."""

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fake_vllm import logit
from tests.harness import ROOT, wait_until

Answer = tuple[int, bytes]


@contextmanager
def engine(**env: object) -> Iterator[Path]:
    """The socket of a running fake engine."""
    with tempfile.TemporaryDirectory(prefix="fake-") as folder:
        socket = Path(folder) / "engine-7-x" / "http.sock"
        socket.parent.mkdir()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fake_vllm.py"), "--uds", str(socket)],
            env={**os.environ, **{key: str(value) for key, value in env.items()}},
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # with its child
        )
        try:
            wait_until(socket.exists, 20)
            yield socket
        finally:
            os.killpg(process.pid, 9)
            process.wait()


class Client:
    """One connection, with one request on it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def ask(self, passages: int, query: str = "q") -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(self.socket)
        body = json.dumps({"queries": query, "documents": [f"p{n}" for n in range(passages)]})
        head = f"POST /score HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write((head + body).encode())

    async def answer(self) -> Answer:
        async with asyncio.timeout(30):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            return int(head.split()[1]), await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.transport.abort()


async def ask(socket: Path, passages: int = 2, query: str = "q") -> Answer:
    client = Client(socket)
    await client.ask(passages, query)
    try:
        return await client.answer()
    finally:
        client.close()


def values(answer: Answer) -> list[float]:
    return [item["score"] for item in json.loads(answer[1])["data"]]


def test_it_works_on_one_pair_after_the_other():
    async def run(socket: Path) -> None:
        loop, answered = asyncio.get_running_loop(), []

        async def one(passages: int) -> None:
            assert len(values(await ask(socket, passages))) == passages
            answered.append((passages, loop.time() - began))

        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for passages in (9, 5, 1):
                tasks.create_task(one(passages))
                await asyncio.sleep(0.05)  # so that they arrive in this order
        assert [passages for passages, _ in answered] == [9, 5, 1]
        for (_, at), pairs in zip(answered, (9, 14, 15), strict=True):
            assert at >= pairs * 0.03 - 0.02  # how finely a loop may tell the time

    with engine(FAKE_PAIR_S=0.03) as socket:
        asyncio.run(run(socket))


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_closed_connection_frees_the_engine(tmp_path: Path, is_begun: bool):
    watched = tmp_path / "watch-7"

    def seen() -> list[str]:
        lines = watched.read_text().splitlines() if watched.exists() else []
        return [" ".join(line.split()[:2]) for line in lines]

    async def until(line: str) -> None:
        async with asyncio.timeout(20):
            while line not in seen():
                await asyncio.sleep(0.02)

    async def run(socket: Path) -> None:
        long, other, behind = Client(socket), Client(socket), Client(socket)
        await long.ask(100_000)  # a thousand seconds of work
        await until("asked 100000")
        if not is_begun:
            await other.ask(90_000)
            await until("asked 90000")
        await behind.ask(3)
        await until("asked 3")
        long.close()
        await until("cancelled 100000")
        if not is_begun:
            other.close()
            await until("cancelled 90000")
        assert values(await behind.answer()) == [logit("q", f"p{n}") for n in range(3)]
        behind.close()
        assert values(await ask(socket, 1)) == [logit("q", "p0")]

    with engine(FAKE_PAIR_S=0.01, FAKE_WATCH_FILE=tmp_path / "watch-{}") as socket:
        asyncio.run(run(socket))
    cancelled = [line for line in seen() if line.startswith("cancelled")]
    assert cancelled == ["cancelled 100000", "cancelled 90000"][: 1 if is_begun else 2]
    assert len({line.split()[2] for line in watched.read_text().splitlines()}) == 1


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """An engine's socket and the file that makes it misbehave."""
    folder = tmp_path_factory.mktemp("fault")
    with engine(FAKE_FAULT_FILE=folder / "fault-{}") as socket:
        yield socket, folder / "fault-7"


def test_a_fault_lasts_until_its_file_is_emptied(faulty: tuple[Path, Path]):
    socket, fault = faulty
    asked = lambda: asyncio.run(ask(socket))  # noqa: E731
    good = [logit("q", "p0"), logit("q", "p1")]
    assert values(asked()) == good
    for word, check in (
        ("nan", lambda answer: math.isnan(values(answer)[-1])),
        ("short\n", lambda answer: values(answer) == good[:1]),
        ("garbage", lambda answer: answer == (200, b"<html>not a score</html>")),
        ("500", lambda answer: answer[0] == 500),
        ("503", lambda answer: answer[0] == 503),
    ):
        fault.write_text(word)
        assert check(asked()) and check(asked()), word
        fault.write_text("")
        assert values(asked()) == good
    fault.write_text("nan")
    fault.unlink()
    assert values(asked()) == good


def test_faults_that_give_no_answer(faulty: tuple[Path, Path]):
    socket, fault = faulty

    async def run() -> None:
        fault.write_text("drop")
        with pytest.raises(asyncio.IncompleteReadError):
            await ask(socket)
        fault.write_text("hang")
        hung = Client(socket)
        await hung.ask(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hung.answer(), 0.3)
        fault.write_text("slow 0.4")
        began = asyncio.get_running_loop().time()
        assert len(values(await ask(socket))) == 2
        assert asyncio.get_running_loop().time() - began >= 0.4
        fault.write_text("")
        assert len(values(await ask(socket))) == 2  # of others, not of what hung
        hung.close()

    asyncio.run(run())


def test_a_fault_may_end_it(tmp_path: Path):
    fault = tmp_path / "fault"
    with engine(FAKE_FAULT_FILE=fault) as socket:
        assert asyncio.run(ask(socket))[0] == 200
        fault.write_text("die")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            asyncio.run(ask(socket))


def test_a_query_may_wish_for_it_too(faulty: tuple[Path, Path]):
    socket, _ = faulty
    assert asyncio.run(ask(socket, query="!503 and more"))[0] == 503
    assert asyncio.run(ask(socket, query="!slow 0.1 and more"))[0] == 200
