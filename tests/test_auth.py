"""API keys: their files, who is let in, and that nothing is open which should not be."""

import hashlib
import json
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from serve import dialects
from serve.auth import SCOPES, Key, Keys, Quota, digest
from serve.dialects import agent
from serve.errors import ConfigError, Forbidden, Unauthorized
from serve.gateway import Gateway
from serve.key_file import read_keys, read_plain, variable_key
from serve.telling import MODELS_PATH, OPEN_PATHS
from tests.harness import Server, descendants, wait_until, write_config
from tests.test_catalog import STACK, catalog

HEX = hashlib.sha256(b"one").hexdigest()


def key(secret: str, name: str = "") -> Key:
    return Key(name or f"of-{secret}", digest(secret.encode()))


def keys(*secrets: str) -> Keys:
    return Keys([key(secret, f"key-{number}") for number, secret in enumerate(secrets, 1)])


def name(of: Keys, **headers: str) -> str | None:
    """Whose key the headers carry, or None when it is nobody's."""
    try:
        found = of.check({name.replace("_", "-"): value for name, value in headers.items()})
    except Unauthorized:
        return None
    return found.name if found else ""


# -- keys ----------------------------------------------------------------------------------------


def test_without_keys_everyone_may():
    assert not Keys()
    assert name(Keys()) == "" == name(Keys(), authorization="Bearer ")


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        ({"authorization": "Bearer one"}, "key-1"),
        ({"authorization": "BEARER  two "}, "key-2"),
        ({"authorization": "two"}, "key-2"),
        ({"authorization": "Bearer", "x_api_key": "two"}, "key-2"),
        ({"authorization": "Basic b25l", "x_api_key": "two"}, "key-2"),
        ({"x_api_key": "two"}, "key-2"),
        ({"api_key": "one"}, "key-1"),
        ({"x_api_key": "", "api_key": "one"}, "key-1"),
        ({}, None),
        ({"authorization": ""}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Basic one"}, None),
        ({"authorization": "Bearer One"}, None),
        ({"authorization": "Bearer onetwo"}, None),
        ({"authorization": "Bearer wrong", "x_api_key": "two"}, None),
        ({"api_key": "\udcff"}, None),
        ({"cookie": "one"}, None),
    ],
)
def test_check(headers: dict[str, str], who: str | None):
    assert name(keys("one", "two"), **headers) == who


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_two_keys_of_one_header_are_none(header: str):
    """A proxy in front may have looked at the other one."""
    raw = [(header.encode(), b"one"), (b"accept", b"a"), (b"accept", b"b")]
    found = keys("one").check(Headers(raw=raw))
    assert found and found.name == "key-1"
    with pytest.raises(Unauthorized, match=f"more than one {header} header"):
        keys("one").check(Headers(raw=[*raw, (header.encode(), b"one")]))


def test_an_empty_key_is_nobodys():
    assert name(Keys([Key("empty", digest(b""))]), x_api_key="") is None


@given(st.text(min_size=1), st.text(min_size=1))
def test_only_the_key_itself_fits(secret: str, other: str):
    of = keys(secret)
    assert name(of, x_api_key=on_the_wire(secret)) == "key-1"
    assert (name(of, x_api_key=on_the_wire(other)) == "key-1") == (other == secret)


def on_the_wire(secret: str) -> str:
    """A header as ASGI servers give it: UTF-8 bytes, each taken for one character."""
    return secret.encode().decode("latin-1")


def test_a_key_is_kept_and_shown_as_its_digest_at_most():
    assert "secret" not in repr(vars(keys("secret")))
    assert "digest" not in repr(key("secret", "name")) and "name" in repr(key("secret", "name"))


@pytest.mark.parametrize("path", ["/rerank", "/v1/models", "/mcp", "/nothing", "/metrics/x"])
def test_a_key_for_metrics_opens_nothing_else(path: str):
    scoped = Key("prometheus", digest(b"one"), scope="metrics")
    scoped.check_scope("/metrics")
    key("one").check_scope(path)
    with pytest.raises(Forbidden, match=r"'prometheus' opens /metrics only: .*`only=metrics`"):
        scoped.check_scope(path)


def test_every_scope_is_of_routes_that_there_are():
    routes = Gateway(catalog(STACK), keys=Keys()).routes
    assert all(path in routes for paths in SCOPES.values() for path in paths)


# -- files ---------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> list[Key]:
    file = tmp_path / "keys"
    file.write_text(text)
    return read_keys(file)


def test_a_file_as_it_always_was(tmp_path: Path):
    found = read(tmp_path, f"# a comment\n one \n\ntwo==\nsha256:{HEX.upper()}x\n"[:-2] + "\n")
    assert [each.name for each in found] == ["key-1", "key-2", "key-3"]
    assert [each.digest for each in found[:2]] == [digest(b"one"), digest(b"two==")]
    assert found[2].digest == bytes.fromhex(HEX)
    assert not any(each.quotas or each.scope for each in found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("one", Key("key-1", digest(b"one"))),
        ("\ufeffone", Key("key-1", digest(b"one"))),  # as an editor of Windows begins a file
        ("alice one", Key("alice", digest(b"one"))),
        ("alice\t one==", Key("alice", digest(b"one=="))),
        ("requests=5/minute", Key("key-1", digest(b"requests=5/minute"))),
        (f"a.b-c_d@e sha256:{HEX}", Key("a.b-c_d@e", digest(b"one"))),
        (
            "one  requests=100/minute",
            Key("key-1", digest(b"one"), {"requests": Quota(100, "minute")}),
        ),
        (
            "alice one pairs=20000/hour requests=1/second",
            Key(
                "alice",
                digest(b"one"),
                {"requests": Quota(1, "second"), "pairs": Quota(20000, "hour")},
            ),
        ),
        ("prometheus one only=metrics", Key("prometheus", digest(b"one"), scope="metrics")),
    ],
)
def test_lines(tmp_path: Path, line: str, expected: Key):
    assert read(tmp_path, line) == [expected]


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# nothing\n", "keys: the API key file has no key: write one a line"),
        ("good\nsha256:zzz\n", "keys:2: `sha256:` needs the 64 hex digits"),
        (f"alice sha256:{HEX}0", "keys:1: `sha256:` needs the 64 hex digits"),
        (f"al/ice {SECRET}", "keys:1: what stands before the key is its name, of at most 32"),
        (f"{SECRET * 10} alice", "keys:1: what stands before the key is its name"),
        (f"alice {SECRET} {SECRET}", "keys:1: unknown option behind the key; known: requests="),
        (f"alice {SECRET} reqests=1/minute", "(nearest: 'requests'); known: requests=, pairs="),
        (f"{SECRET} reqests=1/minute", "keys:1: unknown option behind the key (nearest: 'requ"),
        (f"{SECRET} pairs=1/minute pairs=2/minute", "keys:1: pairs= stands twice"),
        (f"{SECRET} requests=100", "requests= must be a number from 1 on and a window"),
        (f"{SECRET} requests=0/minute", "one of /second /minute /hour /day: requests=100/minute"),
        (f"{SECRET} requests=-1/minute", "requests= must be a number"),
        (f"{SECRET} requests=1.5/minute", "requests= must be a number"),
        (f"{SECRET} requests=٣/minute", "requests= must be a number"),
        (f"{SECRET} pairs=5/week", "pairs= must be a number"),
        (f"{SECRET} pairs=9999999999999/day", "pairs= must be a number"),
        (f"{SECRET} pairs=", "pairs= must be a number"),
        (f"{SECRET} only=health", "keys:1: only= may be metrics"),
        (f"{SECRET} only=metrics pairs=1/day", "only=metrics scores nothing: leave pairs= out"),
    ],
)
def test_mistakes_are_told_by_line_and_without_the_key(tmp_path: Path, text: str, words: str):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / "keys"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a one\n\na two\n", "keys:3: {}:1 has a key named 'a' too: name one of them anew"),
        ("one\nkey-1 two\n", "keys:2: {}:1 has a key named 'key-1' too"),
        ("a one\nb one\n", "keys:2: the key is that of 'a' in {}:1: take one of them out"),
        (f"one\nsha256:{HEX}\n", "keys:2: the key is that of 'key-1' in {}:1"),
    ],
)
def test_no_two_keys_are_alike(tmp_path: Path, text: str, words: str):
    with pytest.raises(ConfigError) as caught:
        Keys(read(tmp_path, text))
    assert words.replace("{}", str(tmp_path / "keys")) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "binary"):
        for reader in (read_keys, read_plain):
            with pytest.raises(ConfigError, match=f"{path}: the API key file cannot be read"):
                reader(path)


def test_the_variables_key():
    assert variable_key("V", "one two") == Key("env", digest(b"one two"))
    assert variable_key("V", f"sha256:{HEX}") == Key("env", digest(b"one"))
    with pytest.raises(ConfigError, match=r"^V: `sha256:` needs the 64 hex digits"):
        variable_key("V", "sha256:x")
    with pytest.raises(ConfigError, match="V: the key is that of 'of-one'"):
        Keys([key("one"), variable_key("V", "one")])


def test_keys_as_clients_send_them(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"# x\nsha256:{HEX}\na sha256:{HEX}\none\nb two pairs=1/day\nc only=metrics\n")
    assert read_plain(file) == ["one", "two"]


# -- keys that are read anew ---------------------------------------------------------------------


def test_keys_are_replaced_all_at_once_or_not_at_all():
    of = keys("one", "two")
    of.replace([key("three", "new"), key("two", "renamed")])
    assert name(of, x_api_key="one") is None
    assert name(of, x_api_key="two") == "renamed" and name(of, x_api_key="three") == "new"
    for wrong in ([key("a", "x"), key("b", "x")], [key("a", "x"), key("a", "y")], []):
        with pytest.raises(ConfigError):
            of.replace(wrong)
        assert name(of, x_api_key="two") == "renamed" and name(of, x_api_key="a") is None


def test_a_server_without_keys_stays_one():
    """Its pages say that none is needed; and one with keys must not open itself."""
    nobody = Keys()
    nobody.replace([])
    with pytest.raises(ConfigError, match="cannot go on without, nor the other way: restart"):
        nobody.replace([key("one")])
    assert not nobody


# -- over HTTP -----------------------------------------------------------------------------------

PLAIN, DIGESTED, METRICS, ENV = (
    "plain-s3cr3t",
    "digested-s3cr3t",
    "metrics-s3cr3t",
    "env s3cr3t-ключ",
)
FILE = f"""
alice {PLAIN}
sha256:{hashlib.sha256(DIGESTED.encode()).hexdigest()}
prometheus {METRICS} only=metrics
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("keys")
    file = work / "keys.txt"
    file.write_text(FILE)
    arguments = ("--api-key-file", str(file))
    with Server(write_config(work), work, *arguments, env={"RERANK_API_KEY": ENV}) as server:
        yield server.until_ready()


def ask(server: Server, method: str, path: str, *headers: tuple[str, bytes]) -> tuple[int, Any]:
    """Status and body of a request with these very headers."""
    host, port = server.url.removeprefix("http://").split(":")
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: x", b"connection: close"]
    lines += [b"content-length: 2", b"content-type: application/json"]
    lines += [name.encode() + b": " + value for name, value in headers]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b"{}"]))
        with connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            body = stream.read().partition(b"\r\n\r\n")[2]
    return status, body


def told(body: bytes) -> str:
    message: str = json.loads(body)["message"]
    return message


GATEWAY = Gateway(catalog(STACK), keys=Keys())
OURS = [
    *((method, path) for path, methods in GATEWAY.routes.items() for method in methods),
    ("GET", f"{MODELS_PATH}/fake"),
    ("HEAD", "/metrics"),
    ("HEAD", MODELS_PATH),
    *(("GET", path) for path in ("/metrics/", "//metrics", "/v1/v1/models")),
    *(("POST", path) for path in ("/v1/rerank/", "/v1/v2/rerank", "//score")),
    ("POST", "/v1/retrieval/nvidia/x/reranking"),
]
# What vLLM 0.32 itself answers, and FastAPI for it, where they are no routes of ours.
VLLMS = [
    *(
        ("POST", path)
        for path in """/pooling /classify /invocations /tokenize /detokenize /ping
        /generative_scoring
        /v1/embeddings /v2/embed /v1/completions /v1/chat/completions /v1/chat/completions/batch
        /v1/chat/completions/render /v1/completions/render /v1/responses /v1/messages
        /v1/messages/count_tokens /v1/audio/transcriptions /v1/audio/translations
        /inference/v1/generate /cohere/v2/chat /v1/load_lora_adapter /v1/unload_lora_adapter
        /sleep /wake_up /pause /resume /reset_prefix_cache /reset_mm_cache /collective_rpc
        /update_weights /start_profile /stop_profile /scale_elastic_ep /abort_requests
        /is_scaling_elastic_ep /fault_tolerance/apply /v1/responses/x/cancel""".split()
    ),
    *(
        ("GET", path)
        for path in """/ping /version /load /server_info /redoc /docs/oauth2-redirect /is_sleeping
        /is_paused /tokenizer_info /weight_info /get_world_size /kv_event_sources /ready /readyz
        /v1/realtime /v1/responses/x /fault_tolerance/status /metrics/x /openapi.yaml /admin /.env
        /favicon.ico""".split()
    ),
    *((method, "/rerankx") for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
]
NOBODY: Mapping[str, list[tuple[str, bytes]]] = {
    "none": [],
    "empty": [("authorization", b"")],
    "no token": [("authorization", b"Bearer ")],
    "wrong": [("authorization", b"Bearer wrong")],
    "wrong x-api-key": [("x-api-key", b"wrong")],
    "two": [("authorization", f"Bearer {PLAIN}".encode())] * 2,
    "two of which one is right": [("x-api-key", PLAIN.encode()), ("X-API-Key", b"wrong")],
    "not ASCII": [("authorization", "Bearer ключ".encode())],
    "not UTF-8": [("x-api-key", b"\xff\xfe\x80")],
    "very long": [("authorization", b"Bearer " + b"x" * 60_000)],
    "its digest": [("x-api-key", hashlib.sha256(DIGESTED.encode()).hexdigest().encode())],
    "the line of its digest": [("x-api-key", FILE.split()[2].encode())],
    "its name": [("x-api-key", b"alice")],
    "name and key": [("x-api-key", f"alice {PLAIN}".encode())],
    "in a cookie": [("cookie", f"authorization={PLAIN}".encode())],
}


def test_no_route_is_forgotten_here():
    paths = {path for _, path in OURS}
    assert {*dialects.by_path(), agent.PATH, MODELS_PATH, "/metrics", "/info"} <= paths
    assert not {path for _, path in VLLMS} & paths


@pytest.mark.parametrize(("method", "path"), [*OURS, *VLLMS], ids=str)
def test_nothing_is_told_or_scored_without_a_key(server: Server, method: str, path: str):
    if path in OPEN_PATHS:
        assert ask(server, method, path)[0] == 200
        return
    for who, headers in NOBODY.items():
        status, body = ask(server, method, path, *headers)
        assert status == 401, (who, body)
        if method != "HEAD":
            assert "send one" in told(body), who
            assert PLAIN.encode() not in body and b"wrong" not in body
    status, body = ask(server, method, path, ("authorization", f"Bearer {PLAIN}".encode()))
    if (method, path) in VLLMS:
        assert status == 404 and "There is no route" in told(body)
    else:
        assert status in (200, 400, 406), body  # they are let in, with a body of nothing


@pytest.mark.parametrize(("method", "path"), [*OURS, *VLLMS], ids=str)
def test_a_key_for_metrics_opens_metrics_alone(server: Server, method: str, path: str):
    status, body = ask(server, method, path, ("x-api-key", METRICS.encode()))
    if path in OPEN_PATHS or path.strip("/") == "metrics":
        assert status == 200
    else:
        assert status == 403
        assert method == "HEAD" or "'prometheus' opens /metrics only" in told(body)


@pytest.mark.parametrize("secret", [PLAIN, DIGESTED, ENV])
def test_each_of_the_keys_scores(server: Server, secret: str):
    body = {"query": "q", "passages": ["a"]}
    for value in (secret.encode(), b"Bearer " + secret.encode()):
        headers = {"authorization": value} if b"Bearer" in value else {"x-api-key": value}
        answer = requests.post(server.url + "/rerank", json=body, headers=headers, timeout=30)
        assert answer.ok and len(answer.json()) == 1


@pytest.mark.parametrize("secret", [PLAIN, METRICS, ENV])
def test_a_key_is_on_no_command_line_and_in_no_log(server: Server, secret: str):
    for pid in {server.process.pid, *descendants(server.process.pid)}:
        shown = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid != server.process.pid:
            shown += Path(f"/proc/{pid}/environ").read_bytes()
        assert secret.encode() not in shown
    logs = [server.output, *server.run_dir.rglob("*.log")]
    assert len(logs) > 1
    assert not any(secret.encode() in log.read_bytes() for log in logs)
    assert "Traceback" not in server.text()


def test_keys_that_cannot_be_used_stop_the_start(tmp_path: Path):
    file = tmp_path / "keys.txt"
    file.write_text(f"a {SECRET}\na {SECRET}x\n")
    config = write_config(tmp_path)
    with Server(config, tmp_path, "--api-key-file", str(file)) as server:
        assert server.wait() == 2
    assert f"error: {file}:2: {file}:1 has a key named 'a' too" in server.text()
    assert SECRET not in server.text()


def test_keys_are_read_anew_when_the_server_is_told_to(tmp_path: Path):
    """A file with a mistake leaves what there was; what a quota has counted goes on."""
    file = tmp_path / "keys.txt"
    file.write_text("alice first requests=1/day\n")

    def status(secret: str, path: str = "/v1/models") -> int:
        if path == "/rerank":
            body = {"query": "q", "passages": ["a"]}
            return server.post(path, body, {"x-api-key": secret}).status_code
        return server.get(path, {"x-api-key": secret}).status_code

    def reload(text: str, words: str) -> None:
        file.write_text(text)
        before = server.text().count(words)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.text().count(words) > before, 60, server.text)

    config = write_config(tmp_path)
    with Server(config, tmp_path, "--api-key-file", str(file)) as server:
        server.until_ready()
        assert status("first", "/rerank") == 200
        reload("bob second\nbob third\n", f"{file}:2: {file}:1 has a key named 'bob' too")
        reload("# none\n", "the API key file has no key")
        assert status("first") == 200 and status("second") == 401
        reload("alice new requests=1/day\nbob second\n", " reloaded\n")
        assert [status(secret) for secret in ("first", "new", "second")] == [401, 200, 200]
        assert status("new", "/rerank") == 429 and status("second", "/rerank") == 200
    assert "Traceback" not in server.text()
