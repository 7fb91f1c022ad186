"""Routes, errors and limits of the whole server, over an engine that answers at once."""

import json
import socket

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve import dialects, page
from tests.fake_vllm import logit
from tests.harness import Server
from tests.readers import sigmoid
from tests.test_dialect_properties import good, overlays

PASSAGES = ["one", "two", "three", "two"]


def scores(query: str, passages: list[str]) -> list[float]:
    return [sigmoid(logit(query, passage)) for passage in passages]


def test_the_simple_route(fake_server: Server):
    assert fake_server.rerank("q", PASSAGES) == scores("q", PASSAGES)
    assert fake_server.rerank("q", []) == []


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_routes_sort_and_cut(fake_server: Server, path: str):
    body = {"query": "q", "documents": PASSAGES, "top_n": 3, "model": "org/fake"}
    answer = fake_server.post(path, body).json()
    expected = scores("q", PASSAGES)
    order = sorted(range(4), key=lambda i: (-expected[i], i))[:3]
    assert answer["model"] == "org/fake"
    assert [
        (r["index"], r["relevance_score"], r["document"]["text"]) for r in answer["results"]
    ] == [(i, expected[i], PASSAGES[i]) for i in order]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_routes_keep_the_order(fake_server: Server, path: str):
    answer = fake_server.post(path, {"text_1": "q", "text_2": PASSAGES}).json()
    assert [item["score"] for item in answer["data"]] == scores("q", PASSAGES)
    raw = fake_server.post(path, {"text_1": "q", "text_2": ["a"], "use_activation": False}).json()
    assert raw["data"][0]["score"] == logit("q", "a")


def test_pair_by_pair(fake_server: Server):
    body = {"queries": ["p", "q"], "documents": ["a", "b"]}
    answer = fake_server.post("/score", body).json()
    assert [item["score"] for item in answer["data"]] == [
        *scores("p", ["a"]),
        *scores("q", ["b"]),
    ]


def test_models(fake_server: Server):
    listed = fake_server.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["fake", "org/fake"]


def test_health(fake_server: Server):
    assert fake_server.get("/health/live").json() == {"live": True}
    ready = fake_server.get("/health/ready").json()
    assert ready["ready"] and ready["models"][0]["replicas"][0]["phase"] == "ready"
    assert fake_server.get("/health").ok
    assert requests.head(fake_server.url + "/health", timeout=5).ok


def test_metrics(fake_server: Server):
    pairs = 'rerank_pairs_total{dialect="simple",model="fake"}'
    before = metric(fake_server, pairs)
    fake_server.rerank("q", PASSAGES)
    assert metric(fake_server, pairs) == before + 4
    assert metric(fake_server, 'rerank_engine_ready{model="fake",replica="0"}') == 1
    assert metric(fake_server, 'rerank_pairs_in_flight{model="fake",replica="0"}') == 0


def metric(server: Server, name: str) -> float:
    for line in server.get("/metrics").text.splitlines():
        if line.startswith(name):
            return float(line.split()[-1])
    return 0


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        ("/rerank", b"", 400, "body", "not JSON"),
        ("/rerank", b"{", 400, "body", "not JSON"),
        ("/rerank", b"[]", 400, "body", "must be a JSON object"),
        ("/rerank", b'{"query": "\\ud800", "passages": []}', 400, "body", "not JSON"),
        ("/rerank", b'{"query": "\xff", "passages": []}', 400, "body", "not JSON"),
        ("/rerank", b'{"query": NaN, "passages": []}', 400, "body", "not JSON"),
        ("/rerank", b"[" * 5000, 400, "body", "not JSON"),
        ("/rerank", b'{"query": "q"}', 400, "documents", "`documents` or `passages`"),
        ("/rerank", b'{"query": "q", "passages": ["a", 1]}', 400, "passages[1]", "a number"),
        (
            "/rerank",
            b'{"query": "q", "passages": ["a"], "use_llm": true}',
            400,
            "use_llm",
            "MODEL=",
        ),
        (
            "/rerank",
            b'{"query": "q", "passages": ["a"], "model": "x"}',
            404,
            "model",
            "served: fake",
        ),
        ("/score", b'{"text_1": ["a", "b"], "text_2": ["a"]}', 400, "text_1", "send one, or as"),
        ("/v1/rerank", b'{"query": "q", "documents": []}', 400, "documents", "is empty"),
    ],
)
def test_bad_bodies(
    fake_server: Server, path: str, body: bytes, status: int, param: str, words: str
):
    answer = requests.post(fake_server.url + path, data=body, timeout=10)
    assert answer.status_code == status, answer.text
    error = answer.json()
    assert error["error"]["param"] == param
    assert error["message"] == error["detail"] == error["error"]["message"]
    assert words in error["message"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("body", "param", "limit"),
    [
        ({"query": "q", "passages": ["a"] * 101}, "passages", "passages"),
        ({"query": "q", "documents": ["a"] * 101}, "documents", "passages"),
        ({"query": "q", "passages": ["a", "b" * 2001]}, "passages[1]", "text_chars"),
        ({"query": "q" * 2001, "passages": ["a"]}, "query", "text_chars"),
        ({"query": "q", "passages": ["a" * 1990] * 11}, "body", "body_bytes"),
    ],
)
def test_limits_are_named(fake_server: Server, body: dict, param: str, limit: str):
    answer = fake_server.post("/rerank", body)
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == param
    assert limit in answer.json()["message"]


def test_a_body_that_is_too_long_is_refused_before_it_is_read(fake_server: Server):
    host, port = fake_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_that_is_too_long(fake_server: Server):
    chunks = (b"x" * 1000 for _ in range(30))
    answer = requests.post(fake_server.url + "/rerank", data=chunks, timeout=10)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("!nan", 502, "not a list of scores"),
        ("!inf", 502, "not a list of scores"),
        ("!null", 502, "None for pair 1"),
        ("!short", 502, "1 scores for 2 pairs"),
        ("!garbage", 502, "not a list of scores"),
        ("!500", 503, "status 500"),
        ("!400", 400, "as you wished"),
        ("!503", 503, "too busy"),
        ("!drop", 503, "not reachable"),
        ("!hang", 504, "timeout_s"),
    ],
)
def test_an_engine_that_answers_nonsense_never_gives_a_score(
    fake_server: Server, query: str, status: int, words: str
):
    answer = fake_server.post("/rerank", {"query": query, "passages": ["a", "b"]})
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert ("retry-after" in answer.headers) == (status == 503)
    assert fake_server.rerank("q", ["a"]) == scores("q", ["a"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rerank", 405),
        ("POST", "/health/live", 405),
        ("POST", "/", 405),
        ("POST", "/pooling", 404),
        ("POST", "/tokenize", 404),
        ("POST", "/invocations", 404),
        ("GET", "/version", 404),
    ],
)
def test_a_route_that_is_not_ours(fake_server: Server, method: str, path: str, status: int):
    answer = requests.request(method, fake_server.url + path, timeout=5)
    assert answer.status_code == status
    assert answer.json()["message"]
    assert ("allow" in answer.headers) == (status == 405)


def test_the_page_comes_with_its_types_and_its_policy(fake_server: Server):
    for path, (_, kind) in page.FILES.items():
        answer = fake_server.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"] == kind
        assert answer.headers["content-security-policy"].startswith("default-src 'none';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        head = requests.head(fake_server.url + path, timeout=5)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == str(len(answer.content))


def test_request_ids_are_the_clients_own_or_new(fake_server: Server):
    own = fake_server.get("/health/live", headers={"x-request-id": "abc-1"})
    assert own.headers["x-request-id"] == "abc-1"
    odd = fake_server.get("/health/live", headers={"x-request-id": "a b" * 100})
    assert len(odd.headers["x-request-id"]) == 32


def test_duplicate_texts_and_special_text_come_back_as_they_were(fake_server: Server):
    passages = ["</s>", "a\x00b", "\u2028", "🙂", "", "</s>"]
    answer = fake_server.post("/rerank", {"query": "", "documents": passages}).json()
    assert {r["index"]: r["document"]["text"] for r in answer["results"]} == dict(
        enumerate(passages)
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(sorted(dialects.by_path())),
    body=st.sampled_from(dialects.DIALECTS).flatmap(
        lambda dialect: overlays.map(lambda overlay: {**good(dialect), **overlay})
    ),
    version=st.sampled_from([{}, {"x-pinecone-api-version": "2025-01"}]),
)
def test_any_fields_get_an_answer_or_their_name(
    fake_server: Server, path: str, body: dict, version: dict
):
    answer = requests.post(fake_server.url + path, json=body, headers=version, timeout=10)
    told = answer.json()
    if answer.ok:
        return
    assert answer.status_code in (400, 404)
    assert told["message"] == told["detail"]
    assert isinstance(told["error"], str) or told["error"]["param"] or "engine" in told["message"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60)
    | st.dictionaries(st.text(max_size=8), st.none() | st.text()).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_body_gets_json_and_never_a_500(fake_server: Server, body: bytes):
    for path in ("/rerank", "/score"):
        answer = requests.post(fake_server.url + path, data=body, timeout=10)
        assert answer.status_code in (200, 400, 404, 413)
        answer.json()
