"""Traces by OpenTelemetry: a span for each scoring request, and below it one for each turn at an
engine, which is told of it. To be imported only where an endpoint is configured.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.responses import Response

from serve import __version__
from serve.errors import RequestError
from serve.exchange import Exchange

log = logging.getLogger(__name__)

SERVICE = "rerank-serve"
CLOSE_S = 1.5
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Sends spans to the collector at `endpoint` (OTLP over HTTP, the URL of its traces).

    What OpenTelemetry's own environment variables say beside (names, headers, the share of requests
    that is traced, limits) its package reads by itself.
    """

    def __init__(self, endpoint: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # _Exporter tells instead
        ours = Resource({"service.name": SERVICE, "service.version": __version__})
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        self._exporter = _Exporter(endpoint)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)

    async def request(
        self, route: str, exchange: Exchange, answer: Callable[[Exchange], Awaitable[Response]]
    ) -> Response:
        """What `answer` gives, in a span below the client's own, if it has sent one."""
        headers = exchange.request.headers
        with self._tracer.start_as_current_span(
            f"{exchange.request.method} {route}",
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"rerank.request_id": exchange.id, "http.route": route},
            record_exception=False,  # whose words may hold a text
            set_status_on_exception=False,
        ) as span:
            status = None  # of a client that has left
            try:
                response = await answer(exchange)
                status = response.status_code
            finally:
                span.set_attributes(_told(exchange, status))
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        return response

    @contextmanager
    def turn(self, engine: str, pairs: int) -> Iterator[str]:
        """A span below the request's: `pairs` of it at the engine on the socket `engine`. Gives the
        header lines that tell the engine of it; of what is no request's (a warm-up), nothing."""
        if not get_current_span().get_span_context().is_valid:
            yield ""
            return
        with self._tracer.start_as_current_span(
            "turn",
            kind=SpanKind.CLIENT,
            attributes={"server.address": engine, "rerank.pairs": pairs},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            headers: dict[str, str] = {}
            _W3C.inject(headers)
            try:
                yield "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            except RequestError as error:
                span.set_attribute("error.type", error.code)
                span.set_status(Status(StatusCode.ERROR))
                raise
            except asyncio.CancelledError:
                span.set_attribute("error.type", "cancelled")
                raise

    def close(self) -> None:
        """Sends what is left, for a moment: a collector that does not answer delays no stop."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)
        self._exporter.shutdown()


def _told(exchange: Exchange, status: int | None) -> Mapping[str, str | float]:
    """What a span says of a request, without what is not known of it."""
    told: Mapping[str, str | float | None] = {
        "http.request.method": exchange.request.method,
        "http.response.status_code": status,
        "error.type": exchange.error,
        "rerank.dialect": exchange.dialect.name if exchange.dialect else None,
        "rerank.model": exchange.model,
        "rerank.pairs": exchange.pairs,
        "rerank.waited_ms": exchange.waited * 1000,
    }
    return {name: value for name, value in told.items() if value is not None}


class _Exporter(SpanExporter):
    """Sends spans, and says once when that begins to fail and once when it works again: the
    package's own exporter would say it every few seconds."""

    def __init__(self, endpoint: str) -> None:
        self._inner = OTLPSpanExporter(endpoint=endpoint)
        self._endpoint = endpoint
        self._is_failing = False
        self._is_closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if fails != self._is_failing and not self._is_closed:
            self._is_failing = fails
            if fails:
                log.warning("traces: %s takes no spans; they are lost until then", self._endpoint)
            else:
                log.info("traces: %s takes spans again", self._endpoint)
        return result

    def shutdown(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True  # it holds nothing back
