"""The ASGI application: every route, one handler for all that is scored, one place for errors."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve import dialects
from serve.agents import Agents, Tool, check_origin
from serve.auth import Keys
from serve.catalog import Catalog
from serve.deadlines import Deadlines, asked_s
from serve.dialects import Sharing, agent, fields
from serve.dialects.base import render_error
from serve.errors import InternalError, MethodNotAllowed, NotFound, RequestError
from serve.exchange import CURRENT, Exchange
from serve.headers import CACHED, REQUEST_ID, TRUNCATED
from serve.leaving import WhileConnected
from serve.logs import AccessLog
from serve.messages import Bodies, Handler, json_response, stopping
from serve.metrics import Metrics
from serve.paths import normal
from serve.quotas import Quotas
from serve.rerank import RerankRequest, RerankResult
from serve.telling import MODELS_PATH, OPEN_PATHS, Telling

if TYPE_CHECKING:
    from serve.traces import Tracing

log = logging.getLogger(__name__)

_ID = REQUEST_ID.encode()
CLIENT_LEFT = 499  # as others count it: nobody is sent it
MOST_CUT = 500  # of them in the header, whose length clients bound


class Gateway:
    """Answers HTTP for what is in `catalog`. Pages of `origins` may use all of it, `/mcp` too;
    `clock` gives the supervisor's time in seconds."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        keys: Keys,
        origins: Collection[str] = (),
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        tracing: "Tracing | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._origins = origins
        self._quotas = Quotas()
        self._metrics = metrics or Metrics()
        self._metrics.watch(catalog.pools, self)
        self._access_log = access_log or AccessLog()
        self._tracing = tracing
        self._telling = Telling(catalog, keys=keys, metrics=self._metrics, clock=clock)
        limits = [pool.model.limits for pool in catalog.pools]
        body_bytes = max(limit.body_bytes for limit in limits)
        self._bodies = Bodies(body_bytes, max(limit.timeout_s for limit in limits))
        self._passages = max(limit.passages for limit in limits)
        self._agents = Agents(Tool(self.score, catalog.names, catalog.default.name), body_bytes)
        self._deadlines = Deadlines()
        self._scoring = {agent.PATH, *dialects.by_path()}  # whose requests are traced
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
        exchange = Exchange(request)
        CURRENT.set(exchange)
        self._count(1)
        try:
            response = await self._traced(exchange)
            response.raw_headers.append((_ID, exchange.id.encode("latin-1")))
            await response(scope, receive, send)
            status = response.status_code
        except ClientDisconnect:
            status = CLIENT_LEFT
        finally:
            self._count(-1)
        self._metrics.answered(exchange, status)
        self._access_log.answered(exchange, status)

    @property
    def is_draining(self) -> bool:
        return self._telling.is_draining

    def drain(self) -> None:
        """Admits nothing more."""
        self._telling.is_draining = True
        self._bodies.end()

    def end(self) -> None:
        """Answers what is in flight, now: 503."""
        self._deadlines.end()

    async def aclose(self) -> None:
        """Ends what requests have started. For when none is left."""
        await self._agents.aclose()

    async def _traced(self, exchange: Exchange) -> Response:
        """The response, and where that is wanted a trace of how it came about."""
        if self._tracing is None:
            return await self._answer(exchange)
        path = normal(exchange.request.scope["path"])
        if path not in self._scoring:
            return await self._answer(exchange)
        return await self._tracing.request(path, exchange, self._answer)

    async def _answer(self, exchange: Exchange) -> Response:
        """The response, whatever happens: the only place where an error becomes one."""
        try:
            return await self._handler(exchange)(exchange)
        except ClientDisconnect:
            raise
        except RequestError as error:
            failure = error.with_traceback(None)  # which holds this frame, and all that it was of
        except Exception:
            log.exception("request %s failed", exchange.id)
            failure = InternalError(f"The server failed; its log says why, under {exchange.id}.")
        exchange.error = failure.code
        render = exchange.dialect.render_error if exchange.dialect else render_error
        return json_response(render(failure, exchange.id), failure.status, failure.headers)

    def _handler(self, exchange: Exchange) -> Handler:
        """Who answers. Raises RequestError: 401 and 403 come before 404, and 405 last."""
        request = exchange.request
        path, method = normal(request.scope["path"]), request.method
        methods = self.routes.get(path)
        exchange.route = path if methods else None
        if methods is None and path.startswith(f"{MODELS_PATH}/"):
            methods = {"GET": partial(self._telling.model, path.removeprefix(f"{MODELS_PATH}/"))}
            exchange.route = f"{MODELS_PATH}/{{model}}"
        if path not in OPEN_PATHS:
            exchange.key = key = self._keys.check(request.headers)
            if key:
                key.check_scope(path)
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

    async def rerank(self, sharing: Sharing, exchange: Exchange) -> Response:
        """Any scoring request. `sharing` are the APIs of its path."""
        exchange.dialect = sharing[-1]  # until the body says which
        await self._quotas.charge(exchange.key, "requests", 1)
        body = await self._bodies.read(exchange)
        exchange.dialect = dialect = sharing.choose(body, exchange.headers)
        fields.check_lists(body, dialect.doc.fields, self._passages)
        request = dialect.parse(body)
        with WhileConnected(exchange.request.scope):
            result = await self.score(request, exchange)
        return json_response(dialect.render(request, result), 200, _told(result))

    async def agent(self, exchange: Exchange) -> Response:
        """A message of an agent's client, in the Model Context Protocol."""
        exchange.dialect = agent.DIALECT
        request = exchange.request
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        check_origin(origin, host, has_keys=bool(self._keys), allowed=self._origins)
        await self._quotas.charge(exchange.key, "requests", 1)
        body = await self._bodies.read(exchange)
        with WhileConnected(request.scope):
            return await self._agents.answer(exchange, body)

    async def score(self, request: RerankRequest, exchange: Exchange) -> RerankResult:
        """The result of any request, whatever it came in. Raises RequestError."""
        if self._telling.is_draining:
            raise stopping()
        served = self._catalog.choose(model=request.model, use_llm=request.use_llm)
        exchange.model, exchange.pairs = served.name, len(request.passages)
        most_s = min(served.timeout_s, asked_s(exchange.headers))
        left_s = max(0.0, most_s - (time.monotonic() - exchange.started))
        with self._deadlines.within(left_s):
            result = await served.rerank(
                request,
                model=self._catalog.name_of(served, request.model),
                id=f"score-{request.request_id or exchange.id}",
                created=int(time.time()),
                left_s=left_s,
                # So that what is not let in costs nothing of a quota.
                admitted=partial(self._quotas.charge, exchange.key, "pairs", exchange.pairs),
            )
        self._metrics.scored(exchange)
        return result


def _told(result: RerankResult) -> Mapping[str, str]:
    """The headers that tell of a result what most APIs' bodies have no place for."""
    told: dict[str, str] = {}
    if result.cut:
        told[TRUNCATED] = ",".join(map(str, result.cut[:MOST_CUT]))
    if result.reused:
        told[CACHED] = str(result.reused)
    return told
