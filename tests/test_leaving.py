"""Clients that go away: what is done for them ends, down to the engine."""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from serve.interrupt import Alarms
from serve.leaving import WhileConnected, left
from tests.certificates import self_signed
from tests.harness import Server, wait_until, write_config


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(within())


def test_who_leaves_ends_the_block():
    async def work() -> list[str]:
        scope: Scope = {}
        seen = []
        with pytest.raises(ClientDisconnect), WhileConnected(scope):
            asyncio.get_running_loop().call_later(0.01, left, scope)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
        task = asyncio.current_task()
        assert task and task.cancelling() == 0
        await asyncio.sleep(0.01)  # is not cancelled
        assert scope == {}
        return seen

    assert run(work()) == ["cancelled"]


def test_who_leaves_later_ends_nothing():
    async def work() -> None:
        scope: Scope = {"path": "/"}
        left(scope)
        with WhileConnected(scope):
            await asyncio.sleep(0)
        left(scope)
        await asyncio.sleep(0)
        assert scope == {"path": "/"}

    run(work())


def test_errors_of_the_block_are_its_own():
    async def work() -> None:
        scope: Scope = {}
        with pytest.raises(KeyError), WhileConnected(scope):
            await asyncio.sleep(0)
            raise KeyError
        assert scope == {}

    run(work())


@pytest.mark.parametrize("leaves", [False, True])
def test_a_cancellation_from_outside_stays_one(leaves: bool):
    async def work() -> None:
        scope: Scope = {}

        async def block() -> None:
            with WhileConnected(scope):
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        while not scope:
            await asyncio.sleep(0)
        task.cancel()
        if leaves:
            left(scope)
        await asyncio.wait({task})
        assert task.cancelled()

    run(work())


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_time_limit_stays_one(is_outside: bool):
    async def work() -> None:
        connected, limit = WhileConnected({}), Alarms().within(0.05, TimeoutError)
        first, second = (limit, connected) if is_outside else (connected, limit)
        with pytest.raises(TimeoutError), first, second:
            await asyncio.Event().wait()

    run(work())


def test_a_block_that_ends_all_the_same_is_left_alone():
    async def work() -> str:
        scope: Scope = {}
        told = ""
        with WhileConnected(scope):
            try:
                asyncio.get_running_loop().call_soon(left, scope)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told = "it knew"
        task = asyncio.current_task()
        assert task and task.cancelling() == 0
        await asyncio.sleep(0)
        return told

    assert run(work()) == "it knew"


# -- the whole server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server over an engine that takes a minute for each answer, and writes down what it sees."""
    work = tmp_path_factory.mktemp("leaving")
    seen = work / "seen"
    with Server(write_config(work), work, env={"FAKE_WATCH_FILE": str(seen)}) as server:
        yield server.until_ready(), seen
    assert "Traceback" not in server.text()


def events(seen: Path, word: str) -> int:
    """How often the engine has seen that of a request of ours: it is probed by others."""
    lines = seen.read_text().splitlines() if seen.exists() else []
    return sum(line.startswith(f"{word} {len(PASSAGES)} ") for line in lines)


def counted(server: Server) -> float:
    """How many requests are counted as those of clients that have left."""
    lines = server.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("rerank_requests_total{")]
    return sum(float(line.split()[-1]) for line in found if 'status="499"' in line)


def connect(server: Server) -> socket.socket:
    host, port = server.url.partition("://")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def wire(path: str, body: object, headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    headers += f"Host: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + content


QUERY, PASSAGES = "!slow 60", ["a", "b", "c"]
CALL = {"name": "rerank", "arguments": {"query": QUERY, "passages": PASSAGES}}
ACCEPT = "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
MODERN = "2026-07-28"


def agents_call(version: str) -> bytes:
    """A call of the tool, as clients of that version of the protocol send it."""
    params: dict[str, Any] = CALL
    headers = f"{ACCEPT}MCP-Protocol-Version: {version}\r\n"
    if version == MODERN:
        headers += "Mcp-Method: tools/call\r\nMcp-Name: rerank\r\n"
        of = "io.modelcontextprotocol/"
        about = {f"{of}protocolVersion": version, f"{of}clientCapabilities": {}}
        about[f"{of}clientInfo"] = {"name": "t", "version": "1"}
        params = {**CALL, "_meta": about}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return wire("/mcp", message, headers)


REQUESTS = {
    "simple": wire("/rerank", {"query": QUERY, "passages": PASSAGES}),
    "cohere": wire("/v2/rerank", {"query": QUERY, "documents": PASSAGES}),
    "long": wire("/rerank", {"query": QUERY, "passages": PASSAGES, "note": "x" * 300_000}),
    "score": wire("/score", {"text_1": QUERY, "text_2": PASSAGES}),
    "agents": agents_call("2025-06-18"),
    "agents of today": agents_call(MODERN),
}


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""  # it is taken for gone, as by Go's server and nginx


@pytest.mark.parametrize("leave", [close, reset, half_close])
@pytest.mark.parametrize("name", REQUESTS)
def test_the_engine_works_no_more_for_who_has_left(
    watched: tuple[Server, Path], name: str, leave: Callable[[socket.socket], None]
):
    server, seen = watched
    asked, cancelled, left = events(seen, "asked"), events(seen, "cancelled"), counted(server)
    with connect(server) as connection:
        connection.sendall(REQUESTS[name])
        wait_until(lambda: events(seen, "asked") == asked + 1, 20)
        leave(connection)
        wait_until(lambda: events(seen, "cancelled") == cancelled + 1, 20)
    wait_until(lambda: counted(server) == left + 1, 20)
    assert len(server.rerank("q", ["a"])) == 1


@pytest.mark.parametrize("is_polite", [True, False])
def test_over_tls_too(tmp_path: Path, is_polite: bool):
    certificate, seen = self_signed(tmp_path, "server"), tmp_path / "seen"
    config, env = write_config(tmp_path), {"FAKE_WATCH_FILE": str(seen)}
    arguments = certificate.arguments
    with Server(config, tmp_path, *arguments, env=env, trusting=certificate.pem) as server:
        server.until_ready()
        asked = events(seen, "asked")
        context = ssl.create_default_context(cafile=certificate.pem)
        with context.wrap_socket(connect(server), server_hostname="127.0.0.1") as connection:
            connection.sendall(REQUESTS["simple"])
            wait_until(lambda: events(seen, "asked") == asked + 1, 20)
            if is_polite:
                connection.unwrap()
        wait_until(lambda: events(seen, "cancelled") == 1, 20)
    assert "Traceback" not in server.text()


def test_who_leaves_while_a_body_comes_is_counted(watched: tuple[Server, Path]):
    server, _ = watched
    left = counted(server)
    with connect(server) as connection:
        connection.sendall(REQUESTS["simple"][:-5])
        wait_until(lambda: in_flight(server) >= 2, 20)  # that one, and who asks for this
    wait_until(lambda: counted(server) == left + 1, 20)


def in_flight(server: Server) -> float:
    lines = server.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("rerank_requests_in_flight")]
    return sum(float(line.split()[-1]) for line in found)
