"""The routes that score nothing: what the server tells of itself, and the files of its pages."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

import orjson
from starlette.responses import Response

from serve import docs, exposition, openapi, page, status
from serve.auth import Keys
from serve.catalog import Catalog
from serve.dialects import tei
from serve.engine import RETRY_AFTER_S
from serve.errors import RequestError
from serve.exchange import Exchange
from serve.messages import Handler, json_response
from serve.metrics import CONTENT_TYPE, Metrics
from serve.replica import Replica

CLUSTER_PATH = "/v1/cluster/auth"  # xinference's clients send a key only if this says so
MODELS_PATH = "/v1/models"
OPEN_PATHS = (  # need no key
    page.PATHS
    | {docs.PATH, openapi.PATH}
    | {"/health", "/health/live", "/health/ready", CLUSTER_PATH}
)


class Telling:
    """Answers for what is in `catalog`. `clock` gives the supervisor's time in seconds."""

    def __init__(
        self, catalog: Catalog, *, keys: Keys, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._catalog = catalog
        self._keys = keys
        self._metrics = metrics
        self._clock = clock
        self._started = int(time.time())
        self.is_draining = False

    @property
    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        """Path → method → who answers."""
        return {
            "/health": {"GET": self.ready},
            "/health/live": {"GET": self.live},
            "/health/ready": {"GET": self.ready},
            "/metrics": {"GET": self.metrics},
            MODELS_PATH: {"GET": self.models},
            CLUSTER_PATH: {"GET": self.cluster},
            tei.INFO_PATH: {"GET": self.info},
            **{path: {"GET": partial(self.page, *file)} for path, file in self._files().items()},
        }

    def _files(self) -> Mapping[str, tuple[str, bytes]]:
        """Path → content type and content, of what is the same for every request."""
        document = openapi.build(open_paths=OPEN_PATHS, needs_key=bool(self._keys))
        return {
            **page.load(),
            openapi.PATH: ("application/json", orjson.dumps(document)),
            docs.PATH: ("text/html; charset=utf-8", docs.render(document).encode()),
        }

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
        """The names that requests may hold."""
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
        """What Prometheus is told: by the gateway, and by those engines that answer at once."""
        engines = [
            (pool.name, replica)
            for pool in self._catalog.pools
            for replica in pool.replicas
            if replica.is_ready
        ]
        texts = await asyncio.gather(*(_told(replica) for _, replica in engines))
        labels = ({"model": name, "replica": str(replica.index)} for name, replica in engines)
        content = (
            self._metrics.render() + exposition.merge(zip(labels, texts, strict=True)).encode()
        )
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        return Response(content, headers=headers)


async def _told(replica: Replica) -> str:
    """What an engine tells Prometheus: nothing, if it does not answer."""
    try:
        return await replica.engine.metrics()
    except RequestError:
        return ""
