"""The ASGI application: every route, one handler for all that is scored, one place for errors."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve import dialects
from serve.auth import Keys
from serve.dialects.base import Body, Dialect, render_error
from serve.engine import RETRY_AFTER_S
from serve.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestError,
    TooLarge,
    Unavailable,
)
from serve.metrics import CONTENT_TYPE, Metrics
from serve.pool import Pool, Replica, choose
from serve.rerank import build_result

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})  # these need no key
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gateway:
    """Answers HTTP for `pools`. `clock` gives the supervisor's time in seconds."""

    def __init__(
        self, pools: Sequence[Pool], *, keys: Keys, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pools = pools
        self._keys = keys
        self._clock = clock
        self._metrics = Metrics(pools)
        self._started = int(time.time())
        self._body_bytes = max(pool.model.limits.body_bytes for pool in pools)
        self.is_draining = False
        self.in_flight = 0  # scoring requests
        self.idle = asyncio.Event()  # set while there are none
        self.idle.set()
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/health": {"GET": self.ready},
            "/health/live": {"GET": self.live},
            "/health/ready": {"GET": self.ready},
            "/metrics": {"GET": self.metrics},
            "/v1/models": {"GET": self.models},
            **{
                path: {"POST": partial(self.rerank, sharing)}
                for path, sharing in dialects.by_path().items()
            },
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = _request_id(request)
        try:
            response = await self._route(request)
        except ClientDisconnect:
            return
        except RequestError as error:
            response = _error_response(error, render_error)
        except Exception:
            log.exception("request %s failed", request_id)
            response = _error_response(_internal_error(request_id), render_error)
        response.headers["x-request-id"] = request_id
        await response(scope, receive, send)

    async def _route(self, request: Request) -> Response:
        path, method = request.scope["path"], request.method
        methods = self._routes.get(path)
        if path not in OPEN_PATHS:
            self._keys.check(request.headers)
        if methods is None:
            raise NotFound(f"There is no route {path}: POST /rerank or /score, GET /v1/models.")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allow = ", ".join(methods)
            raise MethodNotAllowed(f"{path} takes {allow}, not {method}.", allow)
        return await handler(request)

    # -- scoring ---------------------------------------------------------------------------------

    async def rerank(self, sharing: Sequence[Dialect], request: Request) -> Response:
        """Any scoring request. `sharing` are the dialects of its path."""
        started = time.perf_counter()
        dialect = sharing[0]
        self._count(1)
        try:
            body = await _read_body(request, self._body_bytes)
            dialect = dialects.choose(sharing, body)
            response = _json_response(await self._score(dialect, body))
        except RequestError as error:
            response = _error_response(error, dialect.render_error)
        finally:
            self._count(-1)
        self._metrics.observe(dialect.name, response.status_code, time.perf_counter() - started)
        return response

    def _count(self, change: int) -> None:
        self.in_flight += change
        if self.in_flight:
            self.idle.clear()
        else:
            self.idle.set()

    async def _score(self, dialect: Dialect, body: Body) -> object:
        """The rendered answer to one body: the one straight line of this server."""
        request = dialect.parse(body)
        if self.is_draining:
            raise Unavailable("The server is stopping: try again.", retry_after=RETRY_AFTER_S)
        pool = choose(self._pools, model=request.model, use_llm=request.use_llm)
        raw = await pool.score(request)
        result = build_result(
            request,
            raw,
            score=pool.model.score,
            model=request.model or pool.model.name,
            id=f"score-{request.request_id or uuid.uuid4().hex}",
            created=int(time.time()),
        )
        self._metrics.scored(pool.model.name, len(request.passages))
        return dialect.render(request, result)

    # -- telling ---------------------------------------------------------------------------------

    async def live(self, request: Request) -> Response:
        """Whether this process answers at all."""
        return _json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether every model can score, and what each engine is doing."""
        ready = all(pool.is_ready for pool in self._pools) and not self.is_draining
        now = self._clock()
        body = {
            "ready": ready,
            "draining": self.is_draining,
            "models": [
                {
                    "name": pool.model.name,
                    "ready": pool.is_ready,
                    "replicas": [_describe(replica, now) for replica in pool.replicas],
                }
                for pool in self._pools
            ],
        }
        if ready:
            return _json_response(body)
        return _json_response(body, 503, {"retry-after": str(RETRY_AFTER_S)})

    async def models(self, request: Request) -> Response:
        """The names that `model` may hold, in OpenAI's form."""
        return _json_response(
            {
                "object": "list",
                "data": [
                    {
                        "id": name,
                        "object": "model",
                        "created": self._started,
                        "owned_by": "rerank-serve",
                        "root": pool.model.name,
                        "max_model_len": pool.model.max_model_len,
                    }
                    for pool in self._pools
                    for name in pool.model.names
                ],
            }
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})


def _describe(replica: Replica, now: float) -> object:
    return {
        "phase": replica.progress.phase,
        "percent": replica.progress.percent,
        "seconds_in_phase": round(now - replica.since, 1),
        "restarts": replica.restarts,
        "pairs_in_flight": replica.pairs,
    }


async def _read_body(request: Request, most: int) -> Body:
    """The JSON object of a request's body, refused before it is read whole when it is too long."""
    too_large = TooLarge(
        f"The body is longer than {most} bytes: send fewer passages, or raise"
        " `limits: {body_bytes: …}`.",
        param="body",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > most:
            raise too_large
    try:
        body = orjson.loads(received)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", param="body") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    return body


def _request_id(request: Request) -> str:
    """The client's own id, if it is fit to be written into a log, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _internal_error(request_id: str) -> InternalError:
    return InternalError(f"The server failed; its log has the reason under {request_id}.")


def _error_response(error: RequestError, render: Callable[[RequestError], object]) -> Response:
    return _json_response(render(error), error.status, error.headers)


def _json_response(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(body), status, {"content-type": "application/json", **(headers or {})}
    )
