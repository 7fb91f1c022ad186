"""The Model Context Protocol at `/mcp`: its package answers, and one tool comes to our scoring.

Every message is a POST of its own: no sessions, no streams. The package takes a second or two to
import and 35 MB of memory, so nothing of it is there until the first message comes.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from serve import __version__
from serve.dialects import agent
from serve.dialects.base import Body
from serve.errors import Forbidden, InternalError, InvalidRequest, RequestError
from serve.exchange import Exchange
from serve.messages import NOT_STORED
from serve.rerank import RerankRequest, RerankResult

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult
    from mcp_types import PaginatedRequestParams as Page

log = logging.getLogger(__name__)

Scorer = Callable[[RerankRequest, Exchange], Awaitable[RerankResult]]
_EXCHANGE = "rerank_serve.exchange"  # in the ASGI scope: ours, which the tool is called for
_OURS = (b"content-type", b"content-length", b"transfer-encoding")  # headers of the body


def check_origin(
    origin: str | None, host: str, *, has_keys: bool, allowed: Collection[str] = ()
) -> None:
    """Raises Forbidden for a request that a web page of another origin sends, but for `allowed`
    ones (`*` for any).

    `origin` and `host` are the headers. A page cannot know a key; without keys, the page may have
    had its own host name point at us (DNS rebinding), so that both headers agree: then only
    addresses and localhost are taken, which nobody can point elsewhere.
    """
    if origin is None:
        return  # no browser: those send one with every POST
    if origin in allowed or "*" in allowed:
        return
    same = origin.partition("://")[2].lower() == host.lower() != ""
    if not same or not (has_keys or _is_address(host)):
        raise Forbidden(
            f"A page of {origin} may not use this server's {agent.PATH}: call it from a program"
            " that sends no Origin header, or allow it with `serve up --cors-origin`."
        )


def _is_address(host: str) -> bool:
    """Whether a Host header is localhost or an IP address, with or without a port."""
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True


@dataclass(frozen=True)
class Tool:
    """What the tool does, and the names it may be given: `score` may raise RequestError."""

    score: Scorer
    names: Sequence[str]
    default: str

    async def call(
        self, context: "ServerRequestContext[Any]", params: "CallToolRequestParams"
    ) -> "CallToolResult":
        """The result of a call; all that goes wrong with it is told in the result."""
        from mcp.shared.exceptions import MCPError
        from mcp_types import INVALID_PARAMS, CallToolResult, TextContent

        if params.name != agent.TOOL:
            message = f"There is no tool {params.name!r} here, only {agent.TOOL!r}."
            raise MCPError(INVALID_PARAMS, message)
        exchange = _exchange(context)
        try:
            request = agent.parse(params.arguments or {})
            result = await self.score(request, exchange)
            words, content = agent.render_text(request, result), agent.render(request, result)
        except Exception as error:
            failure = _told(error, exchange.id)
            exchange.error = failure.code
            return CallToolResult(content=[TextContent(text=failure.message)], is_error=True)
        return CallToolResult(content=[TextContent(text=words)], structured_content=content)

    async def list(
        self, context: "ServerRequestContext[Any]", params: "Page | None"
    ) -> "ListToolsResult":
        """The one tool there is."""
        from mcp_types import ListToolsResult, Tool, ToolAnnotations

        tool = Tool(
            name=agent.TOOL,
            title="Rerank passages",
            description=agent.DESCRIPTION,
            input_schema=agent.input_schema(self.names, self.default),
            output_schema=dict(agent.OUTPUT_SCHEMA),
            annotations=ToolAnnotations(
                read_only_hint=True, idempotent_hint=True, open_world_hint=False
            ),
        )
        return ListToolsResult(tools=[tool])


def _exchange(context: "ServerRequestContext[Any]") -> Exchange:
    assert context.request is not None  # none is without over HTTP
    exchange: Exchange = context.request.scope[_EXCHANGE]
    return exchange


def _told(error: Exception, id: str) -> RequestError:
    """What an agent is told of an error: the faults of this program stay in its log."""
    if isinstance(error, RequestError):
        return error
    log.error("request %s failed", id, exc_info=error)
    return InternalError(f"The server failed; its log says why, under {id}.")


class Agents:
    """Answers MCP messages. `body_bytes` is how long one may be."""

    def __init__(self, tool: Tool, body_bytes: int) -> None:
        self._tool = tool
        self._body_bytes = body_bytes
        self._running: asyncio.Task[None] | None = None
        self._manager: asyncio.Future[StreamableHTTPSessionManager] | None = None

    async def answer(self, exchange: Exchange, body: Body) -> Response:
        """The response to one message, whose `body` has been read from a POST."""
        request = exchange.request
        manager = await self._started()
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # JSON is read to a greater depth than written
            raise InvalidRequest("The message is nested too deeply: send texts alone.") from error
        messages = [{"type": "http.request", "body": content, "more_body": False}]
        answer: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await request.receive()

        async def send(message: MutableMapping[str, Any]) -> None:
            answer.append(message)

        headers = [pair for pair in request.scope["headers"] if pair[0] not in _OURS]
        headers.append((b"content-type", b"application/json"))  # as reading it has shown
        scope = {**request.scope, "headers": headers, _EXCHANGE: exchange}
        await manager.handle_request(scope, receive, send)
        return _joined(answer)

    async def _started(self) -> "StreamableHTTPSessionManager":
        """The package's part, which the first message starts."""
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._manager))
        return await asyncio.shield(self._manager)

    async def _run(self, started: "asyncio.Future[StreamableHTTPSessionManager]") -> None:
        """Holds the package's task group, which must be entered and left by one task."""
        try:
            manager = await asyncio.to_thread(_build, self._tool, self._body_bytes)
            async with manager.run():
                started.set_result(manager)
                await asyncio.Event().wait()
        except Exception as error:
            if started.done():
                log.exception("what answers %s ended", agent.PATH)
            else:
                started.set_exception(error)
                started.exception()  # retrieved, should nobody be left who waits for it
        finally:
            self._manager = None  # the next message starts it anew

    async def aclose(self) -> None:
        """Ends what was started."""
        if self._running:
            self._running.cancel()
            await asyncio.wait({self._running})


def _build(tool: Tool, body_bytes: int) -> "StreamableHTTPSessionManager":
    """Imports the package and makes a server of it."""
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    logging.getLogger("mcp").setLevel(logging.WARNING)  # it would log every message
    server: Server[Any] = Server(
        "rerank-serve", version=__version__, on_list_tools=tool.list, on_call_tool=tool.call
    )
    return StreamableHTTPSessionManager(
        server, json_response=True, stateless=True, max_request_body_size=body_bytes
    )


def _joined(messages: Sequence[MutableMapping[str, Any]]) -> Response:
    """One response of an ASGI application's messages, which are none when the client has left."""
    if not messages:
        raise ClientDisconnect
    start, *parts = messages
    response = Response(b"".join(part.get("body", b"") for part in parts), start["status"])
    named = [(name.lower(), value) for name, value in start["headers"]]
    response.raw_headers = [*(pair for pair in named if pair[0] != NOT_STORED[0]), NOT_STORED]
    return response
