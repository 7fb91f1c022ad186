"""The tool of the Model Context Protocol, as a client of that protocol uses it."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import requests
from mcp import Client, MCPError
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from starlette.requests import ClientDisconnect, Request

from serve import agents as agents_module
from serve.agents import Agents, Tool, check_origin
from serve.dialects import agent
from serve.errors import Forbidden, InvalidRequest
from serve.exchange import Exchange
from serve.rerank import RerankRequest, RerankResult, Stages
from tests.harness import Server, write_config
from tests.test_gateway import metric

PASSAGES = ["one", "two", "three", "two"]
KEY = "a key of ours"
ERAS = ["legacy", "2026-07-28", "auto"]  # with a handshake, without, and as the server likes it
T = TypeVar("T")


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that needs a key."""
    work = tmp_path_factory.mktemp("keyed")
    with Server(write_config(work), work, env={"RERANK_API_KEY": KEY}) as server:
        yield server.until_ready()


@asynccontextmanager
async def connected(
    server: Server, mode: str = "auto", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Client]:
    """A client of the protocol's own package."""
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(server.url + "/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


def using(
    server: Server, work: Callable[[Client], Awaitable[T]], mode: str = "auto", **headers: str
) -> T:
    async def run() -> T:
        async with connected(server, mode, headers) as client:
            return await work(client)

    return asyncio.run(run())


def call(server: Server, mode: str = "auto", **arguments: Any) -> Any:
    return using(server, lambda client: client.call_tool("rerank", arguments), mode)


def told(result: CallToolResult) -> str:
    """The message of a result that is an error."""
    assert result.is_error and result.structured_content is None, result
    return words(result)


def words(result: CallToolResult) -> str:
    (content,) = result.content
    assert content.type == "text"
    return content.text


def post(server: Server, body: bytes | str, **headers: str) -> requests.Response:
    return requests.post(server.url + "/mcp", data=body, headers=headers, timeout=10)


@pytest.mark.parametrize("mode", ERAS)
def test_there_is_one_tool(fake_server: Server, mode: str):
    (tool,) = using(fake_server, lambda client: client.list_tools(), mode).tools
    assert tool.name == "rerank"
    assert "judge for yourself, instead of taking the first one" in (tool.description or "")
    schema = tool.input_schema
    assert schema["required"] == ["query", "passages"]
    assert list(schema["properties"]) == ["query", "passages", "model", "top_n"]
    assert schema["properties"]["model"]["description"].startswith("One of: fake, org/fake.")
    assert tool.output_schema == agent.OUTPUT_SCHEMA
    assert tool.annotations and tool.annotations.read_only_hint


@pytest.mark.parametrize("mode", ERAS)
def test_it_ranks_as_the_rerank_route_does(fake_server: Server, mode: str):
    result = call(fake_server, mode, query="q", passages=PASSAGES)
    answer = fake_server.post("/v2/rerank", {"query": "q", "documents": PASSAGES}).json()
    assert not result.is_error
    assert result.structured_content == {
        "model": "fake",
        "results": [
            {
                "index": item["index"],
                "score": item["relevance_score"],
                "passage": item["document"]["text"],
            }
            for item in answer["results"]
        ],
        "truncated": [],
    }
    first, *lines = words(result).splitlines()
    assert first.startswith("4 of 4 passages, ordered by fake, best first")
    best = answer["results"][0]
    score = f"{best['relevance_score']:.4g}"
    assert lines[0] == f"1. index {best['index']}, score {score}: {best['document']['text']}"
    assert len(lines) == 4


def test_a_session_as_older_clients_hold_it(fake_server: Server):
    async def run() -> None:
        async with (
            streamable_http_client(fake_server.url + "/mcp") as (read, write),
            ClientSession(read, write) as session,
        ):
            greeting = await session.initialize()
            assert greeting.server_info.name == "rerank-serve"
            assert greeting.capabilities.tools is not None
            assert greeting.capabilities.prompts is greeting.capabilities.resources is None
            assert len((await session.list_tools()).tools) == 1
            result = await session.call_tool("rerank", {"query": "q", "passages": ["a"]})
            assert not result.is_error

    asyncio.run(run())


def test_top_n_and_a_model_by_its_name(fake_server: Server):
    all_of_them = call(fake_server, query="q", passages=PASSAGES).structured_content
    result = call(fake_server, query="q", passages=PASSAGES, top_n=2, model="org/fake")
    assert result.structured_content["model"] == "org/fake"
    assert result.structured_content["results"] == all_of_them["results"][:2]
    assert words(result).startswith("2 of 4 passages, ordered by org/fake")


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "x"}, "There is no model 'x' here; served: fake, org/fake."),
        ({"passages": ["a"] * 101}, "passages has 101 texts and the limit is 100: send them in"),
        ({"passages": ["a" * 2001]}, "passages[0] has 2001 characters and the limit is 2000"),
        ({"passages": []}, "passages is empty"),
        ({"passages": None}, "passages must be a list; it is null or missing."),
        ({"passages": "a"}, "passages must be a list; it is a string."),
        ({"passages": ["a", 1]}, "passages[1] must be a text; it is a number"),
        ({"query": None}, "query must be a string; it is null or missing."),
        ({"query": ["q"]}, "query must be a string; it is a list."),
        ({"model": 1}, "model must be a string; it is"),
        ({"top_n": 0}, "top_n must be a whole number, 1 or more."),
        ({"top_n": "2"}, "top_n must be a whole number, 1 or more."),
        ({"documents": ["a"]}, "documents is no argument of this tool; it takes query, passages,"),
        ({"query": "!hang"}, "longer than it may"),
        ({"query": "!drop"}, "engine"),
        ({"query": "!garbage"}, "engine"),
    ],
)
def test_errors_are_told_in_the_result(
    fake_server: Server, mode: str, arguments: dict[str, Any], message: str
):
    given = {"query": "q", "passages": ["a"], **arguments}
    assert message in told(call(fake_server, mode, **given))


def test_missing_arguments_and_another_tool(fake_server: Server):
    assert "passages must be a list" in told(call(fake_server))

    async def other(client: Client) -> None:
        with pytest.raises(MCPError, match="There is no tool 'search' here, only 'rerank'"):
            await client.call_tool("search", {})

    using(fake_server, other)


def test_what_the_model_does_not_read_whole_is_said():
    request = agent.parse({"query": "q", "passages": ["a b", "c\n\nd " * 200]})
    result = result_of([0.25, 0.5], [1, 0], cut=[1])
    assert agent.render(request, result) == {
        "model": "m",
        "results": [
            {"index": 1, "score": 0.5, "passage": ("c d " * 50)[:199] + "…"},
            {"index": 0, "score": 0.25, "passage": "a b"},
        ],
        "truncated": [1],
    }
    last = agent.render_text(request, result).splitlines()[-1]
    assert last == "Too long to be read whole, so scored by a part: index 1."


def test_the_stages_of_a_cascade_are_said():
    request = agent.parse({"query": "q", "passages": ["a", "b"]})
    result = result_of([0.9, 0.2], [1, 0], stages=Stages([2.0, 1.0], {1: -1.0}))
    items: Any = agent.render(request, result)
    assert [item["stage"] for item in items["results"]] == ["then", "first"]
    assert agent.render_text(request, result).splitlines()[1:] == [
        "1. index 1, score 0.2 (then stage): b",
        "2. index 0, score 0.9 (first stage): a",
    ]


def result_of(scores: list[float], ranking: list[int], **more: Any) -> RerankResult:
    return RerankResult("id", "m", 0, scores, scores, ranking, 9, **more)


def test_the_translation_is_one_canonical_request():
    assert agent.parse({"query": "q", "passages": ["a"], "top_n": 1, "model": None}) == (
        RerankRequest(["q"], ["a"], top_n=1, is_ranked=True)
    )
    for wrong in (True, 1.5, -1):
        with pytest.raises(InvalidRequest):
            agent.parse({"query": "q", "passages": ["a"], "top_n": wrong})


@pytest.mark.parametrize(
    ("passage", "excerpt"),
    [
        ("", ""),
        (" a \n b ", "a b"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        (" " * 1000 + "x", "…"),
    ],
)
def test_excerpts(passage: str, excerpt: str):
    assert agent.excerpt(passage) == excerpt


def test_two_calls_at_once(fake_server: Server):
    async def both(client: Client) -> list[CallToolResult]:
        return await asyncio.gather(
            client.call_tool("rerank", {"query": "!hang", "passages": ["a"]}),
            client.call_tool("rerank", {"query": "q", "passages": PASSAGES}),
        )

    slow, quick = using(fake_server, both)
    assert slow.is_error
    assert len(quick.structured_content["results"]) == 4


def test_a_key_is_needed(keyed_server: Server):
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for headers in ({}, {"authorization": "Bearer another"}):
        answer = post(keyed_server, json.dumps(message), **headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in answer.json()["error"]["message"]
    with pytest.raises((MCPError, ExceptionGroup)):
        using(keyed_server, lambda client: client.list_tools())


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_the_right_key_opens(keyed_server: Server, mode: str, header: str):
    value = f"Bearer {KEY}" if header == "Authorization" else KEY
    tools = using(keyed_server, lambda client: client.list_tools(), mode, **{header: value}).tools
    assert len(tools) == 1


def test_the_package_is_not_there_before_it_is_needed(tmp_path: Path):
    with Server(write_config(tmp_path), tmp_path, env={"RERANK_API_KEY": KEY}) as server:
        assert server.until_ready().get("/metrics", {"x-api-key": KEY}).ok
        assert post(server, b"{}").status_code == 401
        assert not has_imported_mcp(server)
        assert post(server, b"{}", **{"x-api-key": KEY}).status_code == 400
        assert has_imported_mcp(server)


def has_imported_mcp(server: Server) -> bool:
    """By the compiled library of pydantic, which nothing else of the server's uses."""
    return "pydantic_core" in Path(f"/proc/{server.process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("origin", "host", "has_keys", "may"),
    [
        (None, "", False, True),
        (None, "any.example", False, True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", False, True),
        ("http://localhost:8000", "LOCALHOST:8000", False, True),
        ("http://[::1]:8000", "[::1]:8000", False, True),
        ("http://[::1]", "[::1]", False, True),
        ("http://127.0.0.1:3000", "127.0.0.1:8000", False, False),
        ("http://evil.example", "127.0.0.1:8000", False, False),
        ("http://evil.example:8000", "evil.example:8000", False, False),  # DNS rebinding
        ("https://rerank.example", "rerank.example", True, True),
        ("https://evil.example", "rerank.example", True, False),
        ("null", "null", True, False),
        ("null", "127.0.0.1", False, False),
        ("", "", True, False),
    ],
)
def test_origins(origin: str | None, host: str, has_keys: bool, may: bool):
    try:
        check_origin(origin, host, has_keys=has_keys)
    except Forbidden:
        assert not may
    else:
        assert may


def test_a_page_of_another_origin_is_refused(fake_server: Server):
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    refused = post(fake_server, message, origin="http://evil.example")
    assert refused.status_code == 403
    assert "http://evil.example may not use" in refused.json()["error"]["message"]
    assert not any(name.startswith("access-control") for name in refused.headers)
    assert post(fake_server, message, origin=fake_server.url).json()["result"] == {}
    assert post(fake_server, message, host="any.example").json()["result"] == {}


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28", "nonsense"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xff\x00",
        b"[]",
        b"[" * 5000,
        b'{"jsonrpc": "2.0", "id": 1, "params": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"{}",
        b"null",
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "id": {}, "method": 1}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 1}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "rerank",'
        b' "arguments": []}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"x": "\\ud800"}}',
    ],
)
def test_garbage_is_a_json_rpc_error(fake_server: Server, version: str, body: bytes):
    answer = post(fake_server, body, **{"mcp-protocol-version": version})
    assert answer.status_code in (200, 400, 404), answer.text
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert error["code"] < 0 and error["message"]
    assert "Traceback" not in fake_server.text()


def test_a_body_that_is_too_large(fake_server: Server):
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    for body in (b" " * 20001, chunks()):
        answer = requests.post(fake_server.url + "/mcp", data=body, timeout=10)
        assert answer.status_code == 413
        assert "longer than 20000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_other_methods(fake_server: Server, method: str):
    answer = requests.request(method, fake_server.url + "/mcp", timeout=10)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_it_is_counted(fake_server: Server):
    name = 'rerank_requests_total{dialect="mcp",model="fake",status="200"}'
    requests_before = metric(fake_server, name)
    pairs_before = metric(fake_server, 'rerank_pairs_total{dialect="mcp",model="fake"}')
    call(fake_server, query="q", passages=PASSAGES)
    assert metric(fake_server, name) > requests_before
    assert metric(fake_server, 'rerank_pairs_total{dialect="mcp",model="fake"}') == pairs_before + 4
    answer = post(
        fake_server, '{"jsonrpc": "2.0", "id": 1, "method": "ping"}', **{"x-request-id": "me"}
    )
    assert answer.headers["x-request-id"] == "me"


def test_a_model_that_is_not_ready_is_told(tmp_path: Path):
    with Server(write_config(tmp_path), tmp_path, env={"FAKE_BOOT": "hang"}) as server:
        assert "not ready" in told(call(server, query="q", passages=["a"]))


@pytest.mark.parametrize("mode", ERAS)
def test_it_stops_while_a_client_is_connected(tmp_path: Path, mode: str):
    async def stop(client: Client) -> int:
        assert not (await client.call_tool("rerank", {"query": "q", "passages": ["a"]})).is_error
        server.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(server.wait, 8)

    with Server(write_config(tmp_path), tmp_path) as server:
        assert using(server.until_ready(), stop, mode) == 0
    assert "Traceback" not in server.text() and "Error" not in server.text()


def test_a_call_in_flight_is_waited_for(tmp_path: Path):
    async def stop(client: Client) -> tuple[CallToolResult, int]:
        arguments = {"query": "q", "passages": ["a"]}
        await client.list_tools()
        early = asyncio.create_task(client.call_tool("rerank", arguments))
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        try:
            late = told(await client.call_tool("rerank", arguments))
        except MCPError as error:  # where its body had not come yet
            late = str(error)
        assert "is stopping" in late
        return await early, await asyncio.to_thread(server.wait, 8)

    with Server(write_config(tmp_path), tmp_path, env={"FAKE_DELAY_S": "1.5"}) as server:
        early, status = using(server.until_ready(), stop)
    assert not early.is_error and status == 0
    assert "1 requests in flight" in server.text() and "Traceback" not in server.text()


def test_a_hung_call_does_not_hold_up_a_stop_for_ever(tmp_path: Path):
    config = write_config(tmp_path, "limits: {timeout_s: 60, stop_timeout_s: 1}\n")

    async def stop(client: Client) -> int:
        await client.list_tools()
        hung = asyncio.create_task(
            client.call_tool("rerank", {"query": "!hang", "passages": ["a"]})
        )
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(server.wait, 20)
        await asyncio.wait([hung], timeout=5)
        assert hung.done() and (hung.exception() or hung.result().is_error)
        return status

    started = time.monotonic()
    with Server(config, tmp_path) as server:
        assert using(server.until_ready(), stop) == 0
    assert time.monotonic() - started < 30
    assert "Traceback" not in server.text()


def test_a_cascade_over_the_wire(tmp_path: Path):
    config = write_config(tmp_path)
    other = config.with_name("other.yaml")
    other.write_text(config.read_text().replace("fake, org/fake", "other"))
    models = f"models:\n  a: {{config: {config}}}\n  b: {{config: {other}}}\n"
    stack = tmp_path / "stack.yaml"
    stack.write_text(models + "  both: {cascade: {first: a, then: b, keep: 2}}\n")
    with Server(stack, tmp_path) as server:
        server.until_ready()
        result = call(server, query="q", passages=["1", "2", "3"], model="both", top_n=3)
    content = result.structured_content
    assert content["model"] == "both"
    assert [item["stage"] for item in content["results"]] == ["then", "then", "first"]


@pytest.mark.vllm
def test_a_passage_that_is_cut(minilm_server: Server):
    passages = ["a very long one " * 1000, "Paris is the capital of France."]
    result = call(minilm_server, query="capital of France?", passages=passages)
    assert result.structured_content["truncated"] == [0]
    assert result.structured_content["results"][0]["index"] == 1
    assert words(result).endswith("scored by a part: index 0.")


# -- faults of this program ----------------------------------------------------------------------


def tool_that_fails() -> Tool:
    async def fail(request: RerankRequest, exchange: Exchange) -> RerankResult:
        raise RuntimeError("a secret of ours")

    return Tool(fail, ["m"], "m")


def ask(agents: Agents, message: dict[str, Any]) -> Awaitable[Any]:
    async def receive() -> Any:
        raise AssertionError("the body has been read")

    headers = [(b"accept", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
    return agents.answer(
        Exchange(Request(scope, receive), "me"), {"jsonrpc": "2.0", "id": 1, **message}
    )


def test_a_fault_is_told_by_its_id_only(caplog: pytest.LogCaptureFixture):
    async def run() -> Any:
        async with aclosing(Agents(tool_that_fails(), 1000)) as agents:
            arguments = {"query": "q", "passages": ["a"]}
            params = {"name": "rerank", "arguments": arguments}
            return await ask(agents, {"method": "tools/call", "params": params})

    response = asyncio.run(run())
    result = json.loads(response.body)["result"]
    assert result["isError"] is True
    assert result["content"][0]["text"] == "The server failed; its log says why, under me."
    assert "request me failed" in caplog.text and "a secret of ours" in caplog.text


def test_it_starts_anew_after_a_failure(monkeypatch: pytest.MonkeyPatch):
    build = agents_module._build

    async def run() -> Any:
        async with aclosing(Agents(tool_that_fails(), 1000)) as agents:
            monkeypatch.setattr(agents_module, "_build", lambda *_: {}["no such package"])
            for _ in range(2):
                with pytest.raises(KeyError):
                    await ask(agents, {"method": "ping"})
            monkeypatch.setattr(agents_module, "_build", build)
            return await ask(agents, {"method": "ping"})

    assert json.loads(asyncio.run(run()).body)["result"] == {}


def test_a_client_that_leaves_gets_nothing():
    with pytest.raises(ClientDisconnect):
        agents_module._joined([])
