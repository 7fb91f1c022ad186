"""What Prometheus is told, by a real server over fake engines."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from serve.auth import Key
from serve.dialects import simple
from serve.events import DEATHS, MOVED, SHED
from serve.exchange import CURRENT, Exchange
from serve.metrics import Metrics
from serve.spec import Limits
from tests.harness import Server, wait_until, write_config
from tests.test_gateway import PASSAGES

KEY_FILE = "ci secret\nquick other requests=1/day\nprometheus third only=metrics\n"
AS = {name: {"authorization": f"Bearer {key}"} for name, key in (("ci", "secret"),)}
AS |= {"quick": {"x-api-key": "other"}, "prometheus": {"authorization": "Bearer third"}}


def samples(text: str) -> Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]:
    """Name → labels → value, as Prometheus reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


class Scrape:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found = samples(text)

    def value(self, name: str, **labels: str) -> float:
        return self.found.get(name, {}).get(tuple(sorted(labels.items())), 0.0)

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(labels).get(label, "") for labels in self.found.get(name, {})}


def scrape(server: Server, **headers: str) -> Scrape:
    answer = server.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("metrics")
    (work / "keys").write_text(KEY_FILE)
    config = write_config(work, "replicas: 2\nlimits: {timeout_s: 7, pairs_in_flight: 50}\n")
    with Server(config, work, "--api-key-file", str(work / "keys")) as server:
        yield server.until_ready()


def ask(server: Server, body: Mapping[str, object], path: str = "/rerank", who: str = "ci") -> int:
    return server.post(path, body, AS[who]).status_code


SIMPLE = {"query": "q", "passages": PASSAGES}


def test_requests_and_pairs_by_dialect_model_and_key(server: Server):
    before = scrape(server, **AS["prometheus"])
    assert ask(server, SIMPLE) == 200
    assert ask(server, {"query": "q", "documents": ["a"], "model": "fake"}, "/v2/rerank") == 200
    assert ask(server, {"query": "q", "documents": ["a"], "model": "nobody's"}, "/v2/rerank") == 404
    assert ask(server, {"query": 1, "passages": []}) == 400
    after = scrape(server, **AS["prometheus"])

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    requests = "rerank_requests_total"
    assert grown(requests, dialect="simple", model="fake", status="200") == 1
    assert grown(requests, dialect="cohere-v2", model="fake", status="200") == 1
    assert grown(requests, dialect="cohere-v2", model="", status="404") == 1
    assert grown(requests, dialect="simple", model="", status="400") == 1
    assert grown("rerank_pairs_total", dialect="simple", model="fake") == len(PASSAGES)
    assert grown("rerank_pairs_total", dialect="cohere-v2", model="fake") == 1
    assert grown("rerank_key_requests_total", key="ci") == 4
    assert grown("rerank_key_pairs_total", key="ci") == len(PASSAGES) + 1
    seconds = "rerank_request_seconds"
    assert grown(f"{seconds}_count", dialect="simple", model="fake") == 1
    assert 0 < grown(f"{seconds}_sum", dialect="simple", model="fake") < 60
    assert grown("rerank_wait_seconds_count", model="fake") == 2
    turns = [
        grown("rerank_engine_turns_total", model="fake", replica=replica, outcome="ok")
        for replica in "01"
    ]
    assert sum(turns) == 2
    assert "nobody" not in after.text


def test_what_has_not_happened_yet_is_there_with_0(server: Server):
    found = scrape(server, **AS["prometheus"])
    assert found.labels("rerank_shed_requests_total", "reason") == {*SHED, "quota"}
    assert found.labels("rerank_moved_turns_total", "reason") == set(MOVED)
    assert found.labels("rerank_engine_deaths_total", "reason") == set(DEATHS)
    assert found.labels("rerank_engine_deaths_total", "replica") == {"0", "1"}
    assert found.labels("rerank_truncated_passages_total", "model") == {"fake"}
    assert found.labels("rerank_engine_seconds_count", "replica") == {"0", "1"}


def test_the_state_of_queues_and_engines(server: Server):
    found = scrape(server, **AS["prometheus"])
    assert found.value("rerank_draining") == 0
    assert found.value("rerank_requests_in_flight") == 1  # this one
    assert found.value("rerank_timeout_seconds", model="fake") == 7
    assert found.value("rerank_pairs_limit", model="fake") == 50
    assert found.value("rerank_bytes_limit", model="fake") == Limits().bytes_in_flight
    for name in ("waiting_pairs", "bytes_in_flight", "admitted_requests"):
        assert (("model", "fake"),) in found.found[f"rerank_{name}"]
        assert found.value(f"rerank_{name}", model="fake") == 0
    for replica in "01":
        engine = {"model": "fake", "replica": replica}
        assert found.value("rerank_engine_ready", **engine) == 1
        assert found.value("rerank_engine_sick", **engine) == 0
        assert found.value("rerank_engine_restarts_total", **engine) == 0
    assert found.labels("rerank_build_info", "version") != {""}
    assert found.value("process_resident_memory_bytes") > 2**20


def test_a_quota_and_a_wrong_key_are_counted(server: Server):
    before = scrape(server, **AS["prometheus"])
    assert ask(server, SIMPLE, who="quick") == 200
    assert ask(server, SIMPLE, who="quick") == 429
    assert server.post("/rerank", SIMPLE, {"x-api-key": "wrong"}).status_code == 401
    after = scrape(server, **AS["prometheus"])
    shed, others = "rerank_shed_requests_total", "rerank_other_requests_total"
    assert after.value(shed, model="", reason="quota") == 1
    assert after.value(others, status="401") == before.value(others, status="401") + 1
    assert after.labels("rerank_key_requests_total", "key") >= {"ci", "quick"}


def test_a_model_that_is_not_ready_shows(tmp_path: Path):
    config = write_config(tmp_path, "limits: {timeout_s: 60}\nenv: {FAKE_PAIR_S: 30}\n")
    with Server(config, tmp_path) as server:
        # Its warm-up takes a minute. Until then it is not asked, though it would answer.
        wait_until(lambda: "warming up" in server.get("/health/ready").text, 20, server.text)
        answer = server.post("/rerank", SIMPLE)
        found = scrape(server)
        assert answer.status_code == 503
        assert found.value("rerank_engine_ready", model="fake", replica="0") == 0
        labels = {"dialect": "simple", "model": "fake", "status": "503"}
        assert found.value("rerank_requests_total", **labels) == 1
        assert not any(name.startswith("vllm:") for name in found.found)


# -- engines ---------------------------------------------------------------------------------------


def test_the_engines_own_metrics_are_told_with_their_labels(server: Server):
    text = scrape(server, **AS["prometheus"]).text
    found = Scrape(text)
    for replica in "01":
        labels = {"engine": "0", "model_name": "fake", "model": "fake", "replica": replica}
        assert found.value("vllm:prompt_tokens_total", **labels) == 12
        assert found.value("vllm:request_queue_time_seconds_bucket", le="+Inf", **labels) == 2
    assert text.count("# TYPE vllm:prompt_tokens_total counter") == 1
    assert "python_info" not in text


def test_an_engine_that_does_not_tell_or_tells_nonsense_costs_nothing(tmp_path: Path):
    told = tmp_path / "told-{}"
    config = write_config(tmp_path, f'replicas: 2\nenv: {{FAKE_METRICS_FILE: "{told}"}}\n')
    good = 'vllm:num_requests_running{engine="0"} 3\n'
    (tmp_path / "told-0").write_text(good)
    (tmp_path / "told-1").write_text("hang")
    with Server(config, tmp_path) as server:
        server.until_ready()
        begun = time.monotonic()
        found = scrape(server)
        assert time.monotonic() - begun >= 1.9  # which the one that hangs was given
        labels = {"engine": "0", "model": "fake", "replica": "0"}
        assert found.found["vllm:num_requests_running"] == {tuple(sorted(labels.items())): 3}
        assert found.value("rerank_engine_ready", model="fake", replica="1") == 1
        (tmp_path / "told-1").write_text(f"<html>\nvllm:x{{\n{good}")
        assert len(scrape(server).found["vllm:num_requests_running"]) == 2


# -- the listener by itself ------------------------------------------------------------------------


def pool(name: str = "m", replicas: int = 1) -> Any:
    """As much of a pool as is looked at, with something in all of it."""
    replica = SimpleNamespace(is_ready=False, is_sick=True, pairs=3, restarts=2)
    return SimpleNamespace(
        name=name,
        replicas=[replica] * replicas,
        model=SimpleNamespace(limits=Limits()),
        reuse=SimpleNamespace(pairs=8),
        waiting_pairs=5,
        waiting_bytes=70,
        requests=2,
        rate=8.5,
    )


def watched(*pools: Any) -> Metrics:
    metrics = Metrics()
    metrics.watch(pools, SimpleNamespace(in_flight=4, is_draining=True))
    return metrics


def exchange(**known: Any) -> Exchange:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    made = Exchange(Request(scope), "an-id")
    for name, value in known.items():
        setattr(made, name, value)
    return made


def told(metrics: Metrics) -> Scrape:
    return Scrape(metrics.render().decode())


def test_pools_and_replicas_are_read_when_prometheus_asks():
    busy = pool()
    metrics = watched(busy)
    busy.waiting_pairs = 6
    found = told(metrics)
    assert found.value("rerank_waiting_pairs", model="m") == 6
    assert found.value("rerank_bytes_in_flight", model="m") == 70
    assert found.value("rerank_admitted_requests", model="m") == 2
    assert found.value("rerank_drain_pairs_per_second", model="m") == 8.5
    assert found.value("rerank_requests_in_flight") == 4
    assert found.value("rerank_draining") == 1
    assert found.value("rerank_engine_sick", model="m", replica="0") == 1
    assert found.value("rerank_engine_restarts_total", model="m", replica="0") == 2
    assert found.value("rerank_pairs_in_flight", model="m", replica="0") == 3


def test_events_are_counted():
    metrics = watched(pool())
    metrics.engine_answered("m", 0, 0.02, "ok")
    metrics.engine_answered("m", 0, 0.02, "unavailable")
    metrics.moved("m", "failed")
    metrics.shed("m", "bytes")
    metrics.cut("m", 7)
    metrics.died("m", 0, "stalled")
    found = told(metrics)
    engine = {"model": "m", "replica": "0"}
    assert found.value("rerank_engine_seconds_count", **engine) == 2
    assert found.value("rerank_engine_turns_total", outcome="ok", **engine) == 1
    assert found.value("rerank_engine_turns_total", outcome="unavailable", **engine) == 1
    assert found.value("rerank_moved_turns_total", model="m", reason="failed") == 1
    assert found.value("rerank_shed_requests_total", model="m", reason="bytes") == 1
    assert found.value("rerank_shed_requests_total", model="m", reason="pairs") == 0
    assert found.value("rerank_truncated_passages_total", model="m") == 7
    assert found.value("rerank_engine_deaths_total", reason="stalled", **engine) == 1


def test_waits_are_noted_at_the_request_that_waited():
    metrics, waiting = watched(pool()), exchange()
    token = CURRENT.set(waiting)
    metrics.waited("m", 0.25)
    metrics.waited("m", 0.5)  # a cascade's second model
    CURRENT.reset(token)
    metrics.waited("m", 9)
    assert waiting.waited == 0.75
    assert told(metrics).value("rerank_wait_seconds_count", model="m") == 3


def test_the_words_of_clients_are_never_labels():
    """Whatever comes, the number of series is that of what the operator has named."""
    metrics = watched(pool())
    key = Key("ci", b"")
    for number in range(100):
        words = f"made-up-{number}"
        request = exchange(dialect=simple.DIALECT, model="m", pairs=1, key=key)
        request.request.scope["headers"] = [(b"x-request-id", words.encode())]
        request.request.scope["path"] = request.id = words
        metrics.scored(request)
        metrics.answered(request, 200)
        metrics.answered(exchange(), 404)
    text = metrics.render().decode()
    assert "made-up" not in text
    assert told(metrics).value("rerank_key_pairs_total", key="ci") == 100
    assert len(text.splitlines()) < 300


def test_a_body_of_labels_does_no_harm(server: Server):
    body = {"query": "q", "documents": ["a"], "model": 'x"} 1\nrerank_draining 1\n'}
    before = scrape(server, **AS["prometheus"])
    assert server.post("/v2/rerank", json.loads(json.dumps(body)), AS["ci"]).status_code == 404
    after = scrape(server, **AS["prometheus"])
    assert after.found.keys() == before.found.keys()
    assert after.value("rerank_draining") == 0
