"""Errors over HTTP: in each API's own shape, with the field, the limit and the remedy."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from serve import dialects
from tests.bodies import ASKING, MORE, Asking
from tests.harness import KEY, Server, wait_until, write_config

PASSAGES = ["one", "two"]
every_dialect = pytest.mark.parametrize("asking", ASKING, ids=str)


def post(server: Server, asking: Asking, query: str = "q", **more: Any) -> requests.Response:
    body = {**asking.make(query, PASSAGES), **more.pop("body", {})}
    headers = {**asking.headers, **more.pop("headers", {})}
    return requests.post(server.url + asking.path, json=body, headers=headers, timeout=60, **more)


def check(answer: requests.Response, asking: Asking, status: int, *words: str) -> Any:
    """What every error is; gives its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["message"] == body["detail"]
    assert body["id"] == answer.headers["x-request-id"]
    if asking.dialect == "tei" and isinstance(body["error"], str):
        assert body["error"] == body["message"] and body["error_type"]
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert (body["error"]["message"], body["error"]["code"]) == (body["message"], status)
    assert "Traceback" not in answer.text
    for word in words:
        assert word in body["message"]
    return body


def param(body: Any) -> str | None:
    return None if isinstance(body["error"], str) else body["error"]["param"]


def test_every_dialect_is_asked():
    assert {asking.dialect for asking in ASKING} == {dialect.name for dialect in dialects.DIALECTS}


@every_dialect
@pytest.mark.parametrize(
    ("value", "words"), [([], "is empty"), ({}, "an object"), (["a", 3], "[1] must be a text")]
)
def test_400_names_field_and_index(fake_server: Server, asking: Asking, value: object, words: str):
    if asking.dialect == "simple" and value == []:
        return  # its answer is []
    answer = post(fake_server, asking, body={asking.texts: value})
    if asking.dialect == "vllm-score" and value == {}:
        words = "it is an object"
    body = check(answer, asking, 400, asking.texts, words)
    assert param(body) in (None, asking.texts, f"{asking.texts}[1]")


@every_dialect
def test_400_of_a_side_that_no_model_is_cut_at(fake_server: Server, asking: Asking):
    name = "truncation_direction" if asking.dialect == "tei" else "truncation_side"
    answer = post(fake_server, asking, body={name: "Left"})
    check(answer, asking, 400, f"{name} 'left'", "leave it out")
    assert post(fake_server, asking, body={name: "Right"}).ok


@every_dialect
def test_400_of_the_engine(fake_server: Server, asking: Asking):
    check(post(fake_server, asking, "!400"), asking, 400, "as you wished")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": ""}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"api-key": ""}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {KEY} "}, 200),
        ({"authorization": KEY}, 200),
        ({"x-api-key": KEY}, 200),
        ({"api-key": KEY}, 200),
    ],
)
def test_401(keyed_server: Server, headers: dict[str, str], status: int):
    for asking in ASKING:
        answer = post(keyed_server, asking, headers=headers)
        if status == 401:
            check(answer, asking, 401, "as `Authorization: Bearer KEY`")
            assert answer.headers["www-authenticate"] == "Bearer"
        else:
            assert set(asking.read(answer.json())) == {0, 1}


@every_dialect
def test_an_empty_key_is_no_key_where_none_is_needed(fake_server: Server, asking: Asking):
    for header in ("", "Bearer", "Bearer ", "Bearer whatever"):
        assert post(fake_server, asking, headers={"authorization": header}).ok


@every_dialect
def test_404_of_a_model(fake_server: Server, asking: Asking):
    body = check(
        post(fake_server, asking, body={"model": "gpt"}), asking, 404, "'gpt'", "served: fake"
    )
    assert param(body) in (None, "model")


@every_dialect
@pytest.mark.parametrize(
    ("passages", "limit", "where"),
    [
        (["a"] * 101, "passages", ""),
        (["a", "b" * 2001], "text_chars", "[1]"),
        (["a" * 1900] * 11, "body_bytes", None),
    ],
)
def test_413_names_the_limit(
    fake_server: Server, asking: Asking, passages: list[str], limit: str, where: str | None
):
    body = asking.make("q", passages)
    answer = requests.post(fake_server.url + asking.path, json=body, timeout=20)
    told = check(answer, asking, 413, f"`limits: {{{limit}: …}}`")
    expected = "body" if where is None else asking.texts + where
    assert param(told) in (None, expected)
    assert param(told) or asking.dialect == "tei"


@every_dialect
def test_413_comes_before_each_text_is_looked_at(fake_server: Server, asking: Asking):
    answer = post(fake_server, asking, body={asking.texts: [{}] * 101})
    check(answer, asking, 413, "has 101 texts and the limit is 100")


@every_dialect
def test_an_error_does_not_repeat_all_that_was_sent(fake_server: Server, asking: Asking):
    answer = post(fake_server, asking, body={"model": "m" * 15_000})
    body = check(answer, asking, 404, "There is no model 'mmm", "served: fake")
    assert len(body["message"]) < 2100


@every_dialect
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("!nan", 502, "not a list of scores"),
        ("!short", 502, "try again"),
        ("!500", 503, "log"),
        ("!503", 503, "try again"),
        ("!drop", 503, "try again"),
    ],
)
def test_engine_errors(fake_server: Server, asking: Asking, query: str, status: int, words: str):
    answer = post(fake_server, asking, query)
    body = check(answer, asking, status, words)
    assert (answer.headers.get("retry-after") == "5") == (status == 503)
    if asking.dialect == "tei":
        assert body["error_type"] == ("Backend" if status == 502 else "Unhealthy")


def test_504(fake_server: Server):
    with ThreadPoolExecutor(len(ASKING)) as threads:
        answers = list(threads.map(lambda asking: post(fake_server, asking, "!hang"), ASKING))
    for asking, answer in zip(ASKING, answers, strict=True):
        check(answer, asking, 504, "timeout_s", "send fewer or shorter passages")
        assert answer.headers["x-should-retry"] == "false"


def in_flight(server: Server) -> float:
    lines = server.get("/metrics").text.splitlines()
    [line] = [line for line in lines if line.startswith("rerank_pairs_in_flight")]
    return float(line.split()[-1])


def test_429(tmp_path: Path):
    """While two pairs wait for an engine that never answers, two more are too many."""
    limits = "limits: {pairs_in_flight: 3, stop_timeout_s: 1}\n"
    body = json.dumps({"query": "!hang", "passages": PASSAGES}).encode()
    head = b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with Server(write_config(tmp_path, limits), tmp_path) as server:
        host, port = server.until_ready().url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as waiting:
            waiting.sendall(head + body)
            wait_until(lambda: in_flight(server) == 2, 20)
            for asking in (*ASKING, *MORE):
                answer = post(server, asking)
                told = check(answer, asking, 429, "pairs_in_flight", "try again", "limit is 3")
                assert answer.headers["retry-after"] == "1"  # by the pace of its warm-up
                if asking.dialect == "tei":
                    assert told["error_type"] == "Overloaded"
            assert len(server.rerank("q", ["a"])) == 1


# -- bodies that mean harm ---------------------------------------------------------------------

DEEP = 900  # as deep as the reader of JSON goes; its writer goes less deep


def nested(opening: str, closing: str, depth: int, within: str = "1") -> str:
    return opening * depth + within + closing * depth


LIST = nested("[", "]", DEEP)
OBJECT = nested('{"a":', "}", DEEP)
GOOD = '"query": "q", "documents": ["a"], "texts": null, "passages": null'


@pytest.mark.parametrize(
    "body",
    [
        *("", " ", "{", "[]", "null", "1", '"x"', "true", "{]", "\ufeff{}", "{}{}", '{"a": }'),
        *(nested("[", "]", 5000), nested('{"a":', "}", 5000), LIST, OBJECT),
        *(f'{{"{name}": {LIST}}}' for name in ("query", "documents", "passages", "text_1")),
        f'{{{GOOD}, "model": {OBJECT}}}',
        f'{{{GOOD}, "x": {LIST}}}',
        f'{{{GOOD}, "chat_template_kwargs": {OBJECT}}}',
        f'{{{GOOD}, "mm_processor_kwargs": {OBJECT}}}',
        f'{{{GOOD}, "parameters": {OBJECT}}}',
        f'{{{GOOD}, "rank_fields": {LIST}}}',
        f'{{{GOOD}, "relevant_spans": {OBJECT}}}',
        f'{{"query": "q", "documents": [{{"text": "a", "x": {LIST}}}]}}',
        f'{{"query": "q", "documents": [{{"text": {LIST}}}], "rank_fields": ["text"]}}',
        f'{{"query": "q", "input": [{{"text": "a", "x": {OBJECT}}}], "return_input": true}}',
        f'{{"query": "q", "texts": [{{"text": "a", "x": {OBJECT}}}], "return_text": true}}',
        f'{{"query": {{"text": "q", "x": {OBJECT}}}, "passages": [{{"text": "a"}}]}}',
        *(f'{{{GOOD}, "top_n": {n}}}' for n in ("1e400", "-1e400", "9" * 401, "1e18", "-0", "NaN")),
        *(
            f'{{{GOOD}, "priority": {n}}}'
            for n in ("1e18", "9" * 19, '"' + "9" * 5000 + '"', "-1e9")
        ),
        *(f'{{{GOOD}, "max_chunks_per_doc": {n}}}' for n in ("1e18", "Infinity", '"-1"')),
        f'{{{GOOD}, "chat_template_kwargs": {{"x": 1e300, "y": 18446744073709551616}}}}',
        '{"query": "\\ud800", "documents": ["a"]}',
        '{"query": "q", "documents": ["\\udfff"]}',
        '{"query": "q", "query": 3, "documents": ["a"]}',
        '{"query": 3, "query": "q", "documents": ["a"], "documents": ["b"]}',
        '{"query": "q", "documents": {}}',
        '{"query": "q", "documents": {"0": "a"}}',
        '{"query": "q", "documents": [[]]}',
        '{"query": "q", "documents": [null]}',
        '{"query": "q", "documents": [{}]}',
        '{"query": {}, "passages": {}}',
        '{"query": "q", "texts": {"text": "a"}}',
        '{"query": "q", "passages": false}',
        '{"": ["a"], "query": "q"}',
        '{"query": "q", "documents": ["a"], "request_id": "\\u0000\\r\\nx: y"}',
        '{"query": "q", "documents": ["a"], "model": "\\u0000\\r\\n"}',
        '{"__proto__": {}, "query": "\\u0000", "documents": ["\\u0000"]}',
    ],
    ids=lambda body: body[:40],
)
def test_no_body_is_a_500(fake_server: Server, body: str):
    for path in dialects.by_path():
        answer = requests.post(fake_server.url + path, data=body.encode(), timeout=20)
        assert answer.status_code in (200, 400, 404, 413), (path, answer.text)
        assert answer.headers["content-type"] == "application/json"
        told = answer.json()
        if not answer.ok:
            assert told["message"] == told["detail"]


def test_the_last_of_two_equal_keys_counts(fake_server: Server):
    body = b'{"query": 3, "query": "q", "documents": ["a"], "documents": ["b", "c"], "top_n": 1}'
    answer = requests.post(fake_server.url + "/rerank", data=body, timeout=20).json()
    assert answer["results"][0]["document"]["text"] in ("b", "c")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "x"])
def test_the_type_of_a_body_does_not_matter(fake_server: Server, kind: str):
    answer = requests.post(
        fake_server.url + "/rerank",
        data=b'{"query": "q", "passages": ["a"]}',
        headers={"content-type": kind},
        timeout=20,
    )
    assert answer.ok


def test_nothing_of_this_is_a_fault_of_the_server(fake_server: Server, keyed_server: Server):
    """Runs last in this file: no request of the others has left a traceback in the log."""
    for server in (fake_server, keyed_server):
        assert "Traceback" not in server.text() and " failed\n" not in server.text()
