"""`deploy/monitoring`: what it names exists, and Prometheus' own tools and server take it."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.harness import ROOT, Server, wait_until, write_config
from tests.test_gateway import PASSAGES
from tests.test_metrics import Scrape

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS, CONFIG = MONITORING / "alerts.yaml", MONITORING / "prometheus.yml"
DASHBOARD: Mapping[str, Any] = json.loads((MONITORING / "grafana.json").read_text())
PANELS: list[Mapping[str, Any]] = DASHBOARD["panels"]
RULES: list[Mapping[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
TARGETS = [(panel, target) for panel in PANELS for target in panel.get("targets", ())]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
_NAME = re.compile(r"\b(?:rerank|vllm|process|up)\b[a-z0-9_:]*|\b(?:rerank|process)_[a-z0-9_]+")
_WORDS = re.compile(r'"[^"]*"')


def expression(target: Mapping[str, Any]) -> str:
    """PromQL, as Grafana sends it."""
    found: str = target["expr"]
    for variable, value in VARIABLES.items():
        found = found.replace(variable, value)
    return found


def names(promql: str) -> set[str]:
    """The metrics in an expression."""
    return set(_NAME.findall(_WORDS.sub('""', promql)))


USED = set().union(
    *(names(expression(target)) for _, target in TARGETS), *(names(rule["expr"]) for rule in RULES)
) - {"up"}  # Prometheus' own
OF_VLLM = sorted(name for name in USED if name.startswith("vllm:"))


def needs_prometheus() -> None:
    """Debian: apt-get install prometheus, as `.ci/run` does: there it may not be missing."""
    if shutil.which("promtool") is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")


def promtool(*words: object) -> str:
    """What Prometheus' tool says."""
    needs_prometheus()
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- what is named exists --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("monitoring")
    (work / "keys").write_text("ci secret\nprometheus scraper only=metrics\n")
    options = ("--api-key-file", str(work / "keys"))
    with Server(write_config(work, "replicas: 2\n"), work, *options) as server:
        server.until_ready()
        body = {"query": "q", "passages": PASSAGES}
        assert server.post("/rerank", body, {"x-api-key": "secret"}).ok
        assert not server.post("/rerank", body).ok
        yield server


def told(server: Server) -> Scrape:
    return Scrape(server.get("/metrics", {"authorization": "Bearer scraper"}).text)


def test_every_metric_that_is_named_exists(server: Server):
    missing = USED - told(server).found.keys()
    assert not missing and len(USED) > 30


def test_every_metric_of_ours_is_in_the_dashboard(server: Server):
    ours = {name for name in told(server).found if name.startswith("rerank_")}
    base = {re.sub("_(sum|count|bucket)$", "", n) for n in ours if not n.endswith("_created")}
    assert base - {re.sub("_bucket$", "", name) for name in USED} == set()


def test_every_label_that_is_named_exists(server: Server):
    found = told(server).found
    labels = {label for series in found.values() for labels in series for label, _ in labels}
    labels |= {"instance", "job"}  # Prometheus' own
    for _, target in TARGETS:
        promql, legend = target["expr"], target["legendFormat"]
        grouped = re.findall(r"by \(([^)]*)\)", promql)
        named = {label.strip() for group in grouped for label in group.split(",")}
        named |= set(re.findall(r"\{\{(\w+)\}\}", legend))
        named |= set(re.findall(r"(\w+)=~?\"", promql))
        assert named <= labels, promql


@pytest.mark.vllm
def test_vllms_own_metrics_exist(minilm_server: Server):
    minilm_server.rerank("q", ["a passage"])
    found = Scrape(minilm_server.get("/metrics").text).found
    assert len(OF_VLLM) > 3
    for name in OF_VLLM:
        assert found.get(name), f"{name} of {sorted(found)}"
        for labels in found[name]:
            assert dict(labels)["model"] == "minilm" and dict(labels)["replica"] == "0"


# -- Prometheus ------------------------------------------------------------------------------------


def test_the_rules_load():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", ALERTS)
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in RULES)
    assert {rule["labels"]["severity"] for rule in RULES} <= {"critical", "warning", "info"}


def test_each_rule_fires_for_what_it_says():
    """Every one of them is in the unit tests, which promtool runs."""
    tests = ROOT / "tests" / "alerts_test.yaml"
    assert "SUCCESS" in promtool("test", "rules", tests)
    assert all(rule["alert"] in tests.read_text() for rule in RULES)


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path):
    rules = [
        {"record": f"panel_{panel['id']}:{target['refId']}", "expr": expression(target)}
        for panel, target in TARGETS
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_prometheus_scrapes_the_server_with_the_example(server: Server, tmp_path: Path):
    """The real one, with the example's own words but for address, key file and how often."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "key").write_text("scraper\n")
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text())
    config = CONFIG.read_text()
    for ours, here in (
        ("127.0.0.1:8000", server.url.removeprefix("http://")),
        ("/etc/prometheus/rerank-key", str(tmp_path / "key")),
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("scrape_timeout: 10s", "scrape_timeout: 1s"),
    ):
        assert config.count(ours) == 1
        config = config.replace(ours, here)
    (tmp_path / "prometheus.yml").write_text(config)
    promtool("check", "config", tmp_path / "prometheus.yml")
    options = ("--config.file=prometheus.yml", f"--web.listen-address={address}")
    with (tmp_path / "log").open("wb") as log:
        command = ["prometheus", *options, "--storage.tsdb.path=data"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: asked(address, 'up{job="rerank"} == 1'), 60, (tmp_path / "log").read_text
        )
        assert asked(address, "sum(rerank_engine_ready) == 2")
        for _, target in TARGETS:
            asked(address, expression(target))
    finally:
        process.terminate()
        process.wait()


def asked(address: str, promql: str) -> list[Any]:
    """What Prometheus answers; nothing as long as it is not there."""
    try:
        answer = requests.get(
            f"http://{address}/api/v1/query", params={"query": promql}, timeout=20
        )
    except requests.ConnectionError:
        return []
    if answer.status_code == 503:  # it is still starting
        return []
    assert answer.ok, f"{promql}: {answer.text}"
    found: list[Any] = answer.json()["data"]["result"]
    return found


# -- Grafana ---------------------------------------------------------------------------------------


def test_panels_have_ids_and_places_of_their_own():
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids) > 40
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(0 <= p["gridPos"]["x"] <= 24 - p["gridPos"]["w"] for p in PANELS)


def test_every_panel_has_a_title_words_and_a_unit():
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]


def test_the_data_source_is_chosen_in_the_dashboard():
    """So that it loads anywhere, without an edit."""
    first, *others = DASHBOARD["templating"]["list"]
    assert first["name"] == "datasource" and first["type"] == "datasource"
    assert first["query"] == "prometheus"
    assert all(variable["datasource"] == DATASOURCE for variable in others)
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"] == DATASOURCE
            assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert "__inputs" not in DASHBOARD and DASHBOARD["uid"] and DASHBOARD.get("id") is None


def test_variables_are_those_that_there_are():
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used == known
