"""The ASGI application: every route, one handler for all that is scored, one place for errors."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve import dialects
from serve.agents import Agents, Tool, check_origin
from serve.auth import Keys
from serve.catalog import Catalog
from serve.dialects import agent, fields
from serve.dialects.base import Dialect, render_error
from serve.engine import RETRY_AFTER_S
from serve.errors import InternalError, MethodNotAllowed, NotFound, RequestError, Unavailable
from serve.exchange import Exchange
from serve.headers import REQUEST_ID, TRUNCATED
from serve.messages import Handler, json_response, read_body, request_id
from serve.metrics import Metrics
from serve.paths import normal
from serve.rerank import RerankRequest, RerankResult
from serve.telling import MODELS_PATH, OPEN_PATHS, Telling

log = logging.getLogger(__name__)

MOST_CUT = 500  # of them in the header, whose length clients bound


class Gateway:
    """Answers HTTP for what is in `catalog`. `clock` gives the supervisor's time in seconds."""

    def __init__(
        self, catalog: Catalog, *, keys: Keys, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._metrics = Metrics(catalog.pools)
        self._telling = Telling(catalog, keys=keys, metrics=self._metrics, clock=clock)
        self._body_bytes = max(pool.model.limits.body_bytes for pool in catalog.pools)
        self._passages = max(pool.model.limits.passages for pool in catalog.pools)
        self._agents = Agents(
            Tool(self.score, catalog.names, catalog.default.name), self._body_bytes
        )
        self.in_flight = 0  # requests
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            **self._telling.routes,
            agent.PATH: {"POST": self.agent},
            **{
                path: {"POST": partial(self.rerank, sharing)}
                for path, sharing in dialects.by_path().items()
            },
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        exchange = Exchange(request, request_id(request))
        self._count(1)
        try:
            response = await self._answer(exchange)
            response.headers[REQUEST_ID] = exchange.id
            await response(scope, receive, send)
        except ClientDisconnect:
            return
        finally:
            self._count(-1)
        self._metrics.answered(exchange, response.status_code)

    def drain(self) -> None:
        """Admits nothing more."""
        self._telling.is_draining = True

    async def aclose(self) -> None:
        """Ends what requests have started. For when none is left."""
        await self._agents.aclose()

    async def _answer(self, exchange: Exchange) -> Response:
        """The response, whatever happens: the only place where an error becomes one."""
        try:
            return await self._handler(exchange)(exchange)
        except ClientDisconnect:
            raise
        except RequestError as error:
            failure = error
        except Exception:
            log.exception("request %s failed", exchange.id)
            failure = InternalError(f"The server failed; its log says why, under {exchange.id}.")
        render = exchange.dialect.render_error if exchange.dialect else render_error
        return json_response(render(failure, exchange.id), failure.status, failure.headers)

    def _handler(self, exchange: Exchange) -> Handler:
        """Who answers. Raises Unauthorized, NotFound and MethodNotAllowed, in this order."""
        request = exchange.request
        path, method = normal(request.scope["path"]), request.method
        if path not in OPEN_PATHS:
            self._keys.check(request.headers)
        methods = self.routes.get(path)
        if methods is None and path.startswith(f"{MODELS_PATH}/"):
            methods = {"GET": partial(self._telling.model, path.removeprefix(f"{MODELS_PATH}/"))}
        if methods is None:
            raise NotFound(f"There is no route {path}: GET /docs lists them.")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allow = ", ".join(methods)
            raise MethodNotAllowed(f"{path} takes {allow}, not {method}.", allow)
        return handler

    def _count(self, change: int) -> None:
        self.in_flight += change
        if self.in_flight:
            self.idle.clear()
        else:
            self.idle.set()

    async def rerank(self, sharing: Sequence[Dialect], exchange: Exchange) -> Response:
        """Any scoring request. `sharing` are the dialects of its path."""
        exchange.dialect = sharing[-1]  # until the body says which
        http = exchange.request
        body = await read_body(http, self._body_bytes)
        exchange.dialect = dialect = dialects.choose(sharing, body, http.headers)
        fields.check_lists(body, dialect.doc.fields, self._passages)
        request = dialect.parse(body)
        result = await self.score(request, exchange)
        headers = {TRUNCATED: ",".join(map(str, result.cut[:MOST_CUT]))} if result.cut else None
        return json_response(dialect.render(request, result), 200, headers)

    async def agent(self, exchange: Exchange) -> Response:
        """A message of an agent's client, in the Model Context Protocol."""
        exchange.dialect = agent.DIALECT
        request = exchange.request
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        check_origin(origin, host, has_keys=bool(self._keys))
        body = await read_body(request, self._body_bytes)
        return await self._agents.answer(exchange, body)

    async def score(self, request: RerankRequest, exchange: Exchange) -> RerankResult:
        """The result of any request, whatever it came in. Raises RequestError."""
        if self._telling.is_draining:
            raise Unavailable("The server is stopping: try again.", retry_after=RETRY_AFTER_S)
        served = self._catalog.choose(model=request.model, use_llm=request.use_llm)
        exchange.model, exchange.pairs = served.name, len(request.passages)
        result = await served.rerank(
            request,
            model=self._catalog.name_of(served, request.model),
            id=f"score-{request.request_id or exchange.id}",
            created=int(time.time()),
        )
        self._metrics.scored(served.name, len(request.passages))
        return result
