"""The ASGI application: every route, one handler for all that is scored, one place for errors."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve import dialects, docs, openapi, page, status
from serve.agents import Agents, Tool, check_origin
from serve.auth import Keys
from serve.catalog import Catalog
from serve.dialects import agent, fields, tei
from serve.dialects.base import Dialect, render_error
from serve.engine import RETRY_AFTER_S
from serve.errors import InternalError, MethodNotAllowed, NotFound, RequestError, Unavailable
from serve.headers import REQUEST_ID, TRUNCATED
from serve.messages import json_response, read_body, request_id
from serve.metrics import CONTENT_TYPE, Metrics
from serve.paths import normal
from serve.rerank import RerankRequest, RerankResult

log = logging.getLogger(__name__)

CLUSTER_PATH = "/v1/cluster/auth"  # xinference's clients send a key only if this says so
OPEN_PATHS = (  # need no key
    page.PATHS
    | {docs.PATH, openapi.PATH}
    | {"/health", "/health/live", "/health/ready", CLUSTER_PATH}
)
MODELS_PATH = "/v1/models"
MOST_CUT = 500  # of them in the header, whose length clients bound


@dataclass
class Exchange:
    """One request on its way to its answer. `dialect` is set as soon as it is known."""

    request: Request
    id: str
    dialect: Dialect | None = None


Handler = Callable[[Exchange], Awaitable[Response]]


class Gateway:
    """Answers HTTP for what is in `catalog`. `clock` gives the supervisor's time in seconds."""

    def __init__(
        self, catalog: Catalog, *, keys: Keys, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._clock = clock
        self._metrics = Metrics(catalog.pools)
        self._started = int(time.time())
        self._body_bytes = max(pool.model.limits.body_bytes for pool in catalog.pools)
        self._passages = max(pool.model.limits.passages for pool in catalog.pools)
        self._agents = Agents(
            Tool(self.score, catalog.names, catalog.default.name), self._body_bytes
        )
        self.is_draining = False
        self.in_flight = 0  # requests
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/health": {"GET": self.ready},
            "/health/live": {"GET": self.live},
            "/health/ready": {"GET": self.ready},
            "/metrics": {"GET": self.metrics},
            MODELS_PATH: {"GET": self.models},
            CLUSTER_PATH: {"GET": self.cluster},
            tei.INFO_PATH: {"GET": self.info},
            agent.PATH: {"POST": self.agent},
            **{path: {"GET": partial(self.page, *file)} for path, file in self._files().items()},
            **{
                path: {"POST": partial(self.rerank, sharing)}
                for path, sharing in dialects.by_path().items()
            },
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
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
        if exchange.dialect is not None:
            seconds = time.perf_counter() - started
            self._metrics.observe(exchange.dialect.name, response.status_code, seconds)

    async def aclose(self) -> None:
        """Ends what requests have started. For when none is left."""
        await self._agents.aclose()

    async def _answer(self, exchange: Exchange) -> Response:
        """The response, whatever happens: the only place where an error becomes one."""
        try:
            return await self._handler(exchange.request)(exchange)
        except ClientDisconnect:
            raise
        except RequestError as error:
            failure = error
        except Exception:
            log.exception("request %s failed", exchange.id)
            failure = InternalError(f"The server failed; its log says why, under {exchange.id}.")
        render = exchange.dialect.render_error if exchange.dialect else render_error
        return json_response(render(failure, exchange.id), failure.status, failure.headers)

    def _handler(self, request: Request) -> Handler:
        """Who answers. Raises Unauthorized, NotFound and MethodNotAllowed, in this order."""
        path, method = normal(request.scope["path"]), request.method
        if path not in OPEN_PATHS:
            self._keys.check(request.headers)
        methods = self.routes.get(path)
        if methods is None and path.startswith(f"{MODELS_PATH}/"):
            methods = {"GET": partial(self.model, path.removeprefix(f"{MODELS_PATH}/"))}
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

    def _files(self) -> Mapping[str, tuple[str, bytes]]:
        """Path → content type and content, of what is the same for every request."""
        document = openapi.build(open_paths=OPEN_PATHS, needs_key=bool(self._keys))
        return {
            **page.load(),
            openapi.PATH: ("application/json", orjson.dumps(document)),
            docs.PATH: ("text/html; charset=utf-8", docs.render(document).encode()),
        }

    # -- scoring ---------------------------------------------------------------------------------

    async def rerank(self, sharing: Sequence[Dialect], exchange: Exchange) -> Response:
        """Any scoring request. `sharing` are the dialects of its path."""
        exchange.dialect = sharing[-1]  # until the body says which
        http = exchange.request
        body = await read_body(http, self._body_bytes)
        exchange.dialect = dialect = dialects.choose(sharing, body, http.headers)
        fields.check_lists(body, dialect.doc.fields, self._passages)
        request = dialect.parse(body)
        result = await self.score(request, exchange.id)
        headers = {TRUNCATED: ",".join(map(str, result.cut[:MOST_CUT]))} if result.cut else None
        return json_response(dialect.render(request, result), 200, headers)

    async def agent(self, exchange: Exchange) -> Response:
        """A message of an agent's client, in the Model Context Protocol."""
        exchange.dialect = agent.DIALECT
        request = exchange.request
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        check_origin(origin, host, has_keys=bool(self._keys))
        body = await read_body(request, self._body_bytes)
        return await self._agents.answer(request, body, exchange.id)

    async def score(self, request: RerankRequest, id: str) -> RerankResult:
        """The result of any request, whatever it came in. Raises RequestError."""
        if self.is_draining:
            raise Unavailable("The server is stopping: try again.", retry_after=RETRY_AFTER_S)
        served = self._catalog.choose(model=request.model, use_llm=request.use_llm)
        result = await served.rerank(
            request,
            model=self._catalog.name_of(served, request.model),
            id=f"score-{request.request_id or id}",
            created=int(time.time()),
        )
        self._metrics.scored(served.name, len(request.passages))
        return result

    # -- telling ---------------------------------------------------------------------------------

    async def live(self, exchange: Exchange) -> Response:
        """Whether this process answers at all."""
        return json_response({"live": True})

    async def ready(self, exchange: Exchange) -> Response:
        """200 when a model can score, else 503."""
        body = status.readiness(self._catalog.pools, draining=self.is_draining, now=self._clock())
        if body["ready"]:
            return json_response(body)
        return json_response(body, 503, {"retry-after": str(RETRY_AFTER_S)})

    async def models(self, exchange: Exchange) -> Response:
        return json_response(status.models(self._catalog, created=self._started))

    async def model(self, name: str, exchange: Exchange) -> Response:
        """One entry of the models' list."""
        return json_response(status.model(self._catalog, name, created=self._started))

    async def info(self, exchange: Exchange) -> Response:
        """What TEI's clients ask first: the default model, as theirs."""
        return json_response(status.info(self._catalog))

    async def cluster(self, exchange: Exchange) -> Response:
        """Whether requests need a key."""
        return json_response({"auth": bool(self._keys)})

    async def page(self, kind: str, content: bytes, exchange: Exchange) -> Response:
        """A file of the web page."""
        return Response(content, headers={"content-type": kind, **page.HEADERS})

    async def metrics(self, exchange: Exchange) -> Response:
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})
