"""The server's own log: its two forms, the lines that tell of requests, and what is not in it."""

import argparse
import io
import json
import logging
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from serve import logs
from serve.arguments import add_telling, otlp_endpoint
from serve.auth import Key
from serve.dialects import simple
from serve.errors import ConfigError
from serve.exchange import Exchange
from serve.logs import AccessLog
from tests.harness import Server, wait_until, write_config

SECRET = "a query that nobody may read"
BODY = {"query": SECRET, "passages": ["the first passage", "the second passage"]}


def json_lines(server: Server) -> list[Mapping[str, Any]]:
    whole, _, _ = server.text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def answered(server: Server) -> list[Mapping[str, Any]]:
    return [line for line in json_lines(server) if line["message"] == "answered"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("logs")
    (work / "keys").write_text("ci secret\n")
    options = ("--access-log", "1", "--log-format", "json", "--api-key-file", str(work / "keys"))
    with Server(write_config(work), work, *options) as server:
        yield server.until_ready()


AS = {"authorization": "Bearer secret"}


def one(server: Server, id: str) -> Mapping[str, Any]:
    """The line of a request. It is written when the answer is on its way already."""

    def found() -> list[Mapping[str, Any]]:
        return [line for line in answered(server) if line["request_id"] == id]

    wait_until(found, 20, server.text)
    [line] = found()
    return line


def test_a_line_for_a_request(server: Server):
    server.post("/rerank/", BODY, {**AS, "x-request-id": "whole"})
    line = dict(one(server, "whole"))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", line.pop("time"))
    assert 0 < line.pop("ms") < 60_000 and line.pop("waited_ms") >= 0
    assert line == {
        "level": "INFO",
        "logger": "serve.logs",
        "message": "answered",
        "request_id": "whole",
        "method": "POST",
        "route": "/rerank",
        "status": 200,
        "dialect": "simple",
        "model": "fake",
        "pairs": 2,
        "key": "ci",
        "client": "127.0.0.1",
    }


def test_a_failure_says_its_code(server: Server):
    server.post("/rerank", {**BODY, "query": "!garbage"}, {**AS, "x-request-id": "failed"})
    line = one(server, "failed")
    assert line["level"] == "WARNING" and line["status"] == 502 and line["error"] == "engine_fault"


def test_a_path_that_is_no_route_is_not_in_it(server: Server):
    server.get("/nobody/knows?this=path", {**AS, "x-request-id": "lost"})
    server.get("/v1/models/fake", {**AS, "x-request-id": "model"})
    server.post("/rerank", BODY, {"x-request-id": "stranger"})
    assert "route" not in one(server, "lost") and one(server, "lost")["status"] == 404
    assert one(server, "model")["route"] == "/v1/models/{model}"
    stranger = one(server, "stranger")
    assert stranger["route"] == "/rerank" and "key" not in stranger
    assert stranger["status"] == 401 and stranger["error"] == "unauthorized"
    assert "nobody/knows" not in server.text()


def test_no_text_of_a_request_is_in_it(server: Server):
    server.post("/rerank", {**BODY, "model": SECRET}, AS)
    server.post("/v2/rerank", {"query": SECRET, "documents": ["secret passage"], "model": "x"}, AS)
    server.post("/rerank", {"query": f"!400 {SECRET}", "passages": ["secret passage"]}, AS)
    server.post("/rerank", {"query": SECRET, "passages": [1]}, AS)
    assert SECRET not in server.text() and "passage" not in server.text()


def test_every_line_is_json_also_of_the_start_and_of_a_failing_one(server: Server, tmp_path: Path):
    phases = [line["message"] for line in json_lines(server)]
    assert "fake: ready after" in "".join(phases) and len(phases) > 3
    config = write_config(tmp_path, "nonsense: true\n")
    with Server(config, tmp_path, "--log-format", "json") as failing:
        assert failing.wait() == 2
    [line] = json_lines(failing)
    assert line["level"] == "ERROR" and "nonsense" in line["message"]


def test_a_server_without_a_word_logs_what_it_has_failed_alone(tmp_path: Path):
    with Server(write_config(tmp_path), tmp_path) as server:
        server.until_ready()
        for query in ("q", "!400"):
            server.post("/rerank", {**BODY, "query": query}, {"x-request-id": f"good-{query[-1]}"})
        server.get("/nothing")
        server.post("/rerank", {**BODY, "query": "!garbage"}, {"x-request-id": "failed"})
    lines = [line for line in server.text().splitlines() if " answered " in line]
    assert len(lines) == 1
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d answered request_id=failed method=POST route=/rerank status=502"
        r" error=engine_fault ms=[0-9.]+ waited_ms=[0-9.]+ dialect=simple model=fake pairs=2"
        r" client=127\.0\.0\.1",
        lines[0],
    )


def test_what_a_stranger_sends_forges_no_line(server: Server):
    """A proxy's header, a method, an id: none of them begins a line, or moves a cursor."""
    host, port = server.url.removeprefix("http://").split(":")
    for header in (
        b"x-forwarded-for: 1.2.3.4 \xc2\x9b31m \xc2\x85 status=200",
        b'x-forwarded-for: ", "status": 200, "x": "',
        b"x-request-id: a\xc2\x85b",
        b'x-request-id: ","status":200,"x":"',
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            request = b"GET /rerank HTTP/1.1\r\nhost: x\r\n%s\r\nconnection: close\r\n\r\n" % header
            connection.sendall(request)
            while connection.recv(1000):
                pass

    def found() -> list[Mapping[str, Any]]:
        lines = [line for line in answered(server) if line.get("route") == "/rerank"]
        return [line for line in lines if line["method"] == "GET"]

    wait_until(lambda: len(found()) == 4, 20, server.text)
    asked = found()
    assert [line["status"] for line in asked] == [401] * 4
    assert asked[0]["client"].startswith("1.2.3.4")
    assert '"status"' not in asked[2]["request_id"]
    assert server.text().isascii()
    assert all(line["message"] for line in json_lines(server))


# -- the pieces ------------------------------------------------------------------------------------


@pytest.fixture
def text_log() -> Iterator[io.StringIO]:
    """What the text format prints, of the logger `t`."""
    yield from _log("text")


@pytest.fixture
def json_log() -> Iterator[io.StringIO]:
    yield from _log("json")


def _log(format: logs.Format) -> Iterator[io.StringIO]:
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(logs.formatter(format))
    logger = logging.getLogger("t")
    logger.addHandler(handler)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)


FORGED = "first\n12:00:00 ready\r\x1b[2J\x85\u2028\u202eend"


def test_a_message_begins_one_line_whatever_it_holds(text_log: io.StringIO):
    logging.getLogger("t").warning("%s", FORGED)
    printed = text_log.getvalue()
    assert re.match(r"\d\d:\d\d:\d\d first\n    12:00:00 ready\\x0d\\x1b\[2J\\x85\\u2028", printed)
    assert len(printed.splitlines()) == 2


def test_a_traceback_begins_no_line(text_log: io.StringIO, json_log: io.StringIO):
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("t").exception("failed")
    first, *rest = text_log.getvalue().splitlines()
    assert first.endswith(" failed") and "ValueError" in text_log.getvalue()
    assert rest and all(line.startswith("    ") for line in rest)
    [line] = json_log.getvalue().splitlines()
    assert FORGED in json.loads(line)["exc_info"] and line.isascii()


@given(st.dictionaries(st.sampled_from(("a", "b", "key")), st.text(max_size=20), min_size=1))
def test_fields_stay_apart_whatever_they_hold(fields: dict[str, str]):
    record = logging.makeLogRecord({"msg": fields})
    line = logs.formatter("text").format(record)
    assert line.isascii() and line.isprintable()
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)(?:\s|$)', line)
    read = {name: json.loads(value) if value[0] == '"' else value for name, value in found}
    assert read == fields
    assert json.loads(logs.formatter("json").format(record)).items() >= fields.items()


def exchange(id: str, **known: Any) -> Exchange:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": ("::1", 9)}
    made = Exchange(Request(scope), id)
    for name, value in known.items():
        setattr(made, name, value)
    return made


def logged(share: float, requests: list[tuple[Exchange, int]]) -> list[str]:
    """The ids of those that are logged."""
    ids: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.msg, dict)
            ids.append(record.msg["request_id"])

    listener, logger = Listener(), logging.getLogger("serve.logs")
    before, logger.level = logger.level, logging.INFO
    logger.addHandler(listener)
    for request, status in requests:
        AccessLog(share).answered(request, status)
    logger.removeHandler(listener)
    logger.setLevel(before)
    return ids


def test_a_share_of_them_is_logged_and_the_same_ones_each_time():
    requests = [(exchange(f"id-{number}"), 200) for number in range(2000)]
    few, more = logged(0.1, requests), logged(0.3, requests)
    assert 150 < len(few) < 250 and 500 < len(more) < 700
    assert set(few) < set(more) and logged(0.1, requests) == few
    assert logged(0, requests) == [] and len(logged(1, requests)) == 2000


@pytest.mark.parametrize(
    ("status", "error", "is_logged"),
    [
        (200, None, False),
        (400, "invalid_request", False),
        (401, "unauthorized", False),
        (429, "overloaded", False),
        (500, "internal_error", True),
        (502, "engine_fault", True),
        (504, "deadline_exceeded", True),
        (503, None, False),  # /health/ready, which balancers ask every second
    ],
)
def test_failures_are_always_logged(status: int, error: str | None, is_logged: bool):
    assert bool(logged(0, [(exchange("x", error=error), status)])) == is_logged


def test_a_long_address_is_cut_and_no_address_is_left_out():
    request = exchange("x", key=Key("ci", b""), dialect=simple.DIALECT)
    request.request.scope["client"] = ("9" * 1000, 0)
    assert len(logs.fields(request, 200)["client"]) == 64
    request.request.scope["client"] = None
    assert "client" not in logs.fields(request, 200)


# -- the command line ------------------------------------------------------------------------------


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_telling(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("share", ["0", "1", "0.25", "1e-3"])
def test_a_share(share: str):
    assert parse("--access-log", share).access_log == float(share)


@pytest.mark.parametrize("share", ["", "x", "2", "-0.1", "nan", "inf", "50%"])
def test_what_is_no_share(share: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        parse(f"--access-log={share}")
    assert end.value.code == 2 and "give 0 (failures alone) to 1 (all)" in capsys.readouterr().err


BASE, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, None),
        (None, {BASE: "", TRACES: ""}, None),
        ("http://h:4318", {}, "http://h:4318/v1/traces"),
        ("http://h:4318/", {BASE: "http://other"}, "http://h:4318/v1/traces"),
        ("https://h/otlp", {}, "https://h/otlp/v1/traces"),
        ("http://h:4318/v1/traces", {}, "http://h:4318/v1/traces"),
        ("http://[::1]:4318", {}, "http://[::1]:4318/v1/traces"),
        (None, {BASE: "http://h:4318"}, "http://h:4318/v1/traces"),
        (None, {BASE: "http://h:4318", TRACES: "http://t/x"}, "http://t/x"),
        (
            None,
            {BASE: "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://h/v1/traces",
        ),
        ("http://h", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://h/v1/traces"),
    ],
)
def test_where_traces_go(given: str | None, environment: dict[str, str], expected: str | None):
    assert otlp_endpoint(given, environment) == expected


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ("", {}, "--otlp-endpoint: '' is no URL"),
        ("localhost:4318", {}, "is no URL of a collector: http://127.0.0.1:4318 is"),
        ("ftp://h", {}, "is no URL"),
        ("http://", {}, "is no URL"),
        ("http://h:x", {}, "is no URL"),
        ("http://h\r\nx: y", {}, "is no URL"),
        (None, {BASE: "h"}, f"{BASE}: 'h' is no URL"),
        (None, {TRACES: "h"}, f"{TRACES}: 'h' is no URL"),
        (
            None,
            {BASE: "http://h:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and traces are sent by http/protobuf alone",
        ),
        (
            None,
            {
                BASE: "http://h:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
            },
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'http/json'",
        ),
    ],
)
def test_what_is_no_place_for_traces(given: str | None, environment: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        otlp_endpoint(given, environment)
