"""Web pages of other origins: which are let in, as browsers ask and as agents do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serve import cors
from serve.errors import ConfigError
from tests.harness import Server, write_config

PAGE, APP, STRANGER = "https://app.example.com", "http://localhost:3000", "https://evil.example.com"
KEY = {"authorization": "Bearer secret"}
BODY = {"query": "q", "passages": ["a"]}
ASK = {"access-control-request-method": "POST"}
PATHS = ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/ranking", "/mcp", "/v1/models")


def start(work: Path, *origins: str, key: bool = True) -> Server:
    arguments = [word for origin in origins for word in (cors.OPTION, origin)]
    env = {"RERANK_API_KEY": "secret"} if key else {}
    return Server(write_config(work), work, *arguments, env=env)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("cors"), PAGE, APP) as server:
        yield server.until_ready()
    assert "Traceback" not in server.text()


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("all"), "*") as server:
        yield server.until_ready()


def preflight(server: Server, path: str, origin: str, **more: str) -> requests.Response:
    headers = {"origin": origin, **ASK, **{k.replace("_", "-"): v for k, v in more.items()}}
    return requests.options(server.url + path, headers=headers, timeout=30)


@pytest.mark.parametrize("origin", [PAGE, APP])
@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_needs_no_key(server: Server, path: str, origin: str):
    """A browser sends none with it."""
    wanted = "authorization, x-api-key, api-key, content-type, x-stainless-lang"
    answer = preflight(server, path, origin, access_control_request_headers=wanted)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert set(wanted.split(", ")) <= set(allowed)
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_may_reach_a_local_address(server: Server):
    answer = preflight(server, "/rerank", PAGE, access_control_request_private_network="true")
    assert answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("origin", "method"),
    [
        (STRANGER, "POST"),
        ("null", "POST"),
        (PAGE + ":8443", "POST"),
        ("http://app.example.com", "POST"),
        (PAGE + ".evil.example.com", "POST"),
        (PAGE, "DELETE"),
    ],
)
def test_others_are_told_that_they_may_not(server: Server, origin: str, method: str):
    answer = preflight(server, "/rerank", origin, access_control_request_method=method)
    assert answer.status_code == 403
    assert not any(name.startswith("access-control-allow") for name in answer.headers)
    assert answer.json()["error"]["type"] == "forbidden"
    assert origin in answer.json()["message"] and "--cors-origin" in answer.json()["message"]


def test_a_page_reads_answers_and_errors(server: Server):
    for headers, status in (({**KEY}, 200), ({}, 401), ({"x-api-key": "wrong"}, 401)):
        answer = server.post("/rerank", BODY, {"origin": PAGE, **headers})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert exposed == ["x-request-id", "x-rerank-truncated", "x-rerank-cached", "retry-after"]
        assert "Origin" in answer.headers["vary"]
    stranger = server.post("/rerank", BODY, {"origin": STRANGER, **KEY})
    assert stranger.ok and "access-control-allow-origin" not in stranger.headers
    assert "access-control-allow-origin" not in server.post("/rerank", BODY, KEY).headers


def test_options_that_are_no_preflight_are_as_ever(server: Server):
    url = server.url + "/rerank"
    assert requests.options(url, timeout=30).status_code == 401
    assert requests.options(url, headers={"origin": PAGE, **KEY}, timeout=30).status_code == 405


MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.parametrize(("origin", "status"), [(PAGE, 200), (APP, 200), (STRANGER, 403)])
def test_agents_in_a_page(server: Server, origin: str, status: int):
    headers = {"origin": origin, "accept": "application/json, text/event-stream", **KEY}
    answer = server.post("/mcp", MESSAGE, headers)
    assert answer.status_code == status
    assert (answer.headers.get("access-control-allow-origin") == origin) == (status == 200)


def test_all_pages_may_where_keys_are_needed(open_to_all: Server):
    answer = preflight(open_to_all, "/rerank", STRANGER)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert open_to_all.post("/rerank", BODY, {"origin": STRANGER}).status_code == 401
    asked = open_to_all.post("/rerank", BODY, {"origin": STRANGER, **KEY})
    assert asked.ok and asked.headers["access-control-allow-origin"] == "*"
    assert open_to_all.post("/mcp", MESSAGE, {"origin": STRANGER, **KEY}).status_code != 403


def test_without_the_option_there_is_nothing_of_it(keyed_server: Server):
    answer = preflight(keyed_server, "/rerank", PAGE)
    assert answer.status_code == 401
    for headers in ({"origin": PAGE}, {}):
        answer = keyed_server.post("/rerank", BODY, {**KEY, **headers})
        assert not any("access-control" in name or name == "vary" for name in answer.headers)


# -- origins -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PAGE, PAGE),
        (APP, APP),
        ("HTTPS://App.Example.com", PAGE),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("http://x:443", "http://x:443"),
        ("*", "*"),
    ],
)
def test_origins(given: str, expected: str):
    assert cors.origins([given], has_keys=True) == {expected}


@pytest.mark.parametrize(
    "given",
    [
        *("", "null", "app.example.com", "https://", "https://app.example.com/", "//x", "https:x"),
        *("https://x/path", "https://u:p@x", "https://x:", "https://x:y", "https://*.example.com"),
        *("https://x y", "https://ключ.рф", "https://x,https://y", "https://x?y", " https://x"),
    ],
)
def test_what_is_no_origin(given: str):
    with pytest.raises(ConfigError, match=r"--cors-origin .*: an origin is a scheme, a host"):
        cors.origins([PAGE, given], has_keys=True)


@pytest.mark.parametrize("given", ["https://x:443", "http://x:80", "http://[::1]:80"])
def test_a_port_that_browsers_leave_out(given: str):
    with pytest.raises(ConfigError, match=r"browsers leave out :\d+: leave it out here too"):
        cors.origins([given], has_keys=True)


def test_all_pages_may_not_where_no_key_is_needed(tmp_path: Path):
    with start(tmp_path, PAGE, "*", key=False) as server:
        assert server.wait() == 2
    assert "error: --cors-origin *: any web page" in server.text()
    assert "give it keys (--api-key-file)" in server.text()


# -- the headers of every answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "stored"),
    [
        *(("GET", path, "no-cache") for path in ("/", "/docs", "/openapi.json", "/page.js")),
        *(("GET", path, "no-store") for path in ("/health", "/health/live", "/v1/cluster/auth")),
        *(("GET", path, "no-store") for path in ("/metrics", "/v1/models", "/info", "/nothing")),
        *(("POST", path, "no-store") for path in PATHS),
        *((method, "/rerank", "no-store") for method in ("GET", "HEAD", "DELETE")),
    ],
)
def test_headers_of_every_answer(keyed_server: Server, method: str, path: str, stored: str):
    for headers in ({}, KEY):
        answer = requests.request(
            method, keyed_server.url + path, json=BODY, headers=headers, timeout=30
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == stored, answer.status_code
        assert ("content-security-policy" in answer.headers) == (stored == "no-cache")
