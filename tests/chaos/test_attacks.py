"""What an attacker may try at the gateway: real servers, with and without a key, and raw sockets.

The engine writes down what it is asked. Requests here have seven passages, which nobody else sends.
"""

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from serve import dialects
from serve.door import raise_descriptors
from serve.protocol import HEAD_S, REST_S
from serve.telling import OPEN_PATHS
from tests.bodies import ASKING, MORE
from tests.harness import KEY, ROOT, Server, alive, wait_until, write_config
from tests.test_protocol import DOUBTFUL, HIDDEN

PASSAGES = ["one", "two", "three", "four", "five", "six", "seven"]
BODY = json.dumps({"query": "q", "passages": PASSAGES}).encode()
PATIENCE_S = 60  # for what takes no time on a machine that has nothing else to do
MIB = 1024 * 1024


@dataclass
class Target:
    """A server, and what its engine was asked."""

    server: Server
    folder: Path

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.url.removeprefix("http://").split(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def asked(self) -> int:
        """How many requests of ours the engine has seen."""
        seen = self.folder / "seen"
        lines = seen.read_text().splitlines() if seen.exists() else []
        return sum(line.startswith(f"asked {len(PASSAGES)} ") for line in lines)

    def engine_log(self) -> str:
        """What the engine has printed: every path that it is asked for and does not expect."""
        [log] = self.server.run_dir.glob("*/engine-0.log")
        return log.read_text()

    def rss(self) -> int:
        """The bytes of memory that the gateway's process holds."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def is_well(self, key: str = "") -> bool:
        """Whether a normal client is answered."""
        status, scores = self.send("POST", "/rerank", BODY, key)
        return status == 200 and len(json.loads(scores)) == len(PASSAGES)

    def send(self, method: str, path: str, body: bytes = b"", key: str = "") -> tuple[int, bytes]:
        """Asks for a path as it is, byte for byte."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
        lines += [f"Content-Length: {len(body)}"] + (
            [f"Authorization: Bearer {key}"] if key else []
        )
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        [answer] = self.talk(head + body)
        return answer.status, answer.body

    def talk(self, *segments: bytes) -> "list[Answer]":
        """Every answer up to the end of the connection, which the server makes."""
        with self.connect() as connection:
            with suppress(ConnectionError):
                for segment in segments:
                    connection.sendall(segment)
            return all_answers(connection)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        """The error, which is told in each of the ways that clients read."""
        told = json.loads(self.body)
        assert told["message"] == told["detail"]
        return told


def next_answer(stream: IO[bytes]) -> Answer | None:
    """The next answer; None at the end."""
    line = stream.readline()
    if not line:
        return None
    assert line.startswith(b"HTTP/1.1 "), line
    headers = {}
    while (header := stream.readline()) != b"\r\n":
        name, _, value = header.decode().strip().partition(": ")
        headers[name] = value
    return Answer(int(line.split()[1]), headers, stream.read(int(headers["content-length"])))


def all_answers(connection: socket.socket) -> list[Answer]:
    """What comes up to the end of a connection."""
    found: list[Answer] = []
    with connection.makefile("rb") as stream, suppress(ConnectionResetError):
        while answer := next_answer(stream):
            found.append(answer)
    return found


def request(head: str, body: bytes = BODY) -> bytes:
    return f"{head}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module", params=["open", "keyed"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each of the two servers in turn."""
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.fixture(scope="module")
def open_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from serving(tmp_path_factory.mktemp("open"), "")


@pytest.fixture(scope="module")
def keyed_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    yield from serving(tmp_path_factory.mktemp("keyed"), KEY)


def serving(folder: Path, key: str) -> Iterator[Target]:
    env = {"FAKE_WATCH_FILE": str(folder / "seen"), **({"RERANK_API_KEY": key} if key else {})}
    with Server(write_config(folder), folder, env=env) as server:
        target = Target(server.until_ready(), folder)
        yield target
        assert target.is_well(key)  # whatever befell it
    assert "Traceback" not in server.text() and " failed\n" not in server.text()


# -- clients that take their time: begun now, looked at last ---------------------------------------

HALF = BODY[: len(BODY) // 2]
LENGTH = f"Content-Length: {len(BODY)}\r\n"
CHUNKED = "POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW: Mapping[str, tuple[bytes, list[int]]] = {  # what is sent, and the answers that come of it
    "says nothing": (b"", []),
    "empty lines": (b"\r\n\r\n", []),
    "half a line": (b"POST /rer", [408]),
    "half a header": (b"POST /rerank HTTP/1.1\r\nHost: x\r\nConte", [408]),
    "no end of the headers": (f"POST /rerank HTTP/1.1\r\nHost: x\r\n{LENGTH}".encode(), [408]),
    "no body": (request("POST /rerank HTTP/1.1")[: -len(BODY)], [408]),
    "half a body": (request("POST /rerank HTTP/1.1")[:-5], [408]),
    "half an agent's body": (request("POST /mcp HTTP/1.1")[:-5], [408]),
    "no chunk": (CHUNKED.encode(), [408]),
    "half a chunk": (f"{CHUNKED}{len(BODY):x}\r\n".encode() + HALF, [408]),
    "no last chunk": (f"{CHUNKED}{len(BODY):x}\r\n".encode() + BODY + b"\r\n", [408]),
    "an answer, then half a head": (request("POST /rerank HTTP/1.1") + b"GET /he", [200, 408]),
    "half a body that nobody reads": (request("GET /health/live HTTP/1.1")[:-5], [200]),
    "half a body of no route": (request("POST /nothing HTTP/1.1")[:-5], [404]),
}


@dataclass
class Slow:
    """Slow clients of the open server, which wait for what becomes of them."""

    answers: dict[str, list[Answer]]
    took_s: dict[str, float]
    threads: list[threading.Thread]


@pytest.fixture(scope="module", autouse=True)
def slow(open_target: Target) -> Iterator[Slow]:
    found = Slow({}, {}, [])

    def wait(name: str, sent: bytes) -> None:
        begin = time.monotonic()
        found.answers[name] = open_target.talk(sent)
        found.took_s[name] = time.monotonic() - begin

    for name, (sent, _) in SLOW.items():
        found.threads.append(threading.Thread(target=wait, args=(name, sent)))
        found.threads[-1].start()
    yield found
    for thread in found.threads:
        thread.join()


# -- keys ------------------------------------------------------------------------------------------

TELLING = ("/metrics", "/v1/models", "/v1/models/fake", "/info")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Authorization: Bearer wrong\r\n",
        f"Authorization: Bearer {KEY[:-1]}\r\n",
        f"Authorization: Bearer {KEY}\\0\r\n",
        f"Authorization: Basic {KEY}\r\n",
        "Authorization: Bearer\r\n",
        "x-api-key: \r\n",
        f"x-api-key: {KEY.upper()}\r\n",
        f"Cookie: key={KEY}\r\n",
        f"Authorization: Bearer wrong\r\nAuthorization: Bearer {KEY}\r\n",
        f"X_Api_Key: {KEY}\r\n",
    ],
)
def test_without_its_key_no_route_does_anything(keyed_target: Target, header: str):
    asked, http = keyed_target.asked(), http_client(keyed_target)
    headers = [line.split(": ", 1) for line in header.splitlines()]
    for path in {*dialects.by_path(), *(a.path for a in (*ASKING, *MORE)), *TELLING, "/mcp", "/x"}:
        for method in METHODS:
            http.putrequest(method, path)
            for name, value in [*headers, ("Content-Length", str(len(BODY)))]:
                http.putheader(name, value)
            http.endheaders(BODY)
            answer = http.getresponse()
            content = answer.read()
            assert answer.status == 401, (method, path)
            assert method == "HEAD" or json.loads(content)["error"]
    http.close()
    assert keyed_target.asked() == asked


def http_client(target: Target) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*target.address, timeout=PATIENCE_S)


def test_a_key_in_the_address_is_none(keyed_target: Target):
    for query in (f"api_key={KEY}", f"key={KEY}", f"access_token={KEY}"):
        assert keyed_target.send("POST", f"/rerank?{query}", BODY)[0] == 401
    host = keyed_target.server.url.removeprefix("http://")
    assert keyed_target.send("POST", f"http://x:{KEY}@{host}/rerank", BODY)[0] == 401


# -- the engine's own routes -----------------------------------------------------------------------

ENGINES_OWN = """
/abort_requests /classify /cohere/v2/chat /collective_rpc /detokenize /fault_tolerance/apply
/fault_tolerance/status /finish_weight_update /generative_scoring /get_world_size
/inference/v1/abort_requests /inference/v1/generate /init_weight_transfer_engine /invocations
/is_paused /is_scaling_elastic_ep /is_sleeping /kv_event_sources /load /pause /ping /pooling
/redoc /release_kv_cache_memory /reset_encoder_cache /reset_mm_cache /reset_prefix_cache /resume
/scale_elastic_ep /server_info /shutdown_weight_transfer_engine /sleep /start_draft_weight_update
/start_profile /start_weight_update /stop_profile /tokenize /tokenizer_info /update_weight_version
/update_weights /v1/audio/transcriptions /v1/audio/translations /v1/chat/completions
/v1/chat/completions/batch /v1/chat/completions/derender /v1/chat/completions/render
/v1/completions /v1/completions/derender /v1/completions/render /v1/embeddings
/v1/load_lora_adapter /v1/messages /v1/messages/count_tokens /v1/messages/render /v1/realtime
/v1/responses /v1/responses/render /v1/responses/x /v1/responses/x/cancel /v1/systemone
/v1/unload_lora_adapter /v2/embed /version /wake_up /weight_checker /weight_info
""".split()


def test_no_route_of_the_engine_is_to_be_had(target: Target):
    key = KEY if target.server.env.get("RERANK_API_KEY") else ""
    asked, log, http = target.asked(), target.engine_log(), http_client(target)
    for path in ENGINES_OWN:
        for method in ("GET", "POST"):
            for status, headers in ((404, {"x-api-key": KEY}), (401 if key else 404, {})):
                http.request(method, path, BODY, headers)
                answer = http.getresponse()
                assert (answer.status, method, path) == (status, method, path)
                assert json.loads(answer.read())["message"]
    http.close()
    assert (target.asked(), target.engine_log()) == (asked, log)


# -- paths -----------------------------------------------------------------------------------------

BEFORE = (
    *("/health/..", "/health/live/../..", "/docs/..", "/docs/%2e%2e", "/docs/%2E%2E", "/docs/.%2e"),
    *(
        "/health/..;",
        "/health;/..",
        "/health%2f..",
        "/health/..%2f",
        "/health%2F%2E%2E",
        "/health/%252e%252e",
    ),
    *("/page/../..", "/health\\..", "/health%5c..", "/.", "/..", "/../..", "/./.", "/health/...."),
    *("/openapi.json/..", "/v1/cluster/auth/../../..", "/health%00", "/health?/..", "/health#/.."),
    *("/health%3f/..", "/health%23/..", "/health%0d%0a", "/%c0%ae%c0%ae", "/%ef%bc%8e%ef%bc%8e"),
    *("//evil.example", "/\\evil.example", "http://evil.example", "http://evil.example/health/.."),
    *(
        "/proxy",
        "/api",
        "/v1/v1/v1",
        "/v2/v1",
        "/rerank",
        "/health" * 500,
        "/" * 5000,
        "/a" * 20000,
    ),
)
AFTER = (
    *("/", "//", "/.", "/..", ".", "..", ";x", ";/health", "%20", "%00", "%00/health", "%0a", "\\"),
    *(
        "%2f",
        "%2f..%2fhealth",
        "/../health",
        "/%2e%2e/health",
        "?/health",
        "#/health",
        "%3f",
        "%23",
    ),
    *("/health", "/docs", ".json", ".css", "%5c..%5chealth", "%ef%bc%8f", "%c0%af", "~", "*", "/*"),
    *("%ff", "/" * 5000, "." * 20000, "%2e" * 5000),
)
CLOSED = ("/rerank", "/v2/rerank", "/score", "/v1/ranking", "/mcp", "/metrics", "/v1/models")


def spellings() -> Iterator[str]:
    """Paths that are a closed one, or could be taken for one, or for an open one."""
    for path in CLOSED:
        yield from (before + path for before in BEFORE)
        yield from (path + after for after in AFTER)
        yield from (path.upper(), path.title(), path.replace("e", "%65"), path.replace("/", "%2f"))
        yield from (path.replace("e", "%u0065"), path.replace("e", "\N{CYRILLIC SMALL LETTER IE}"))
        yield from (f"http://127.0.0.1{path}", f"https://x:1{path}", f"HTTP://x{path}", path[1:])
        yield from (f"file://{path}", f"//x{path}", f"*{path}", f"?{path}", f"#{path}")


def test_no_spelling_of_a_path_opens_anything(keyed_target: Target):
    asked = keyed_target.asked()
    for path in spellings():
        raw = path.encode().decode("latin-1")
        is_open = path.split("?")[0].split("#")[0] in OPEN_PATHS
        for method in ("POST", "GET"):
            status, told = keyed_target.send(method, raw, BODY)
            allowed = {200, 405} if is_open else {400, 401}
            assert status in allowed, (method, path[:100], status)
            assert status == 200 or json.loads(told)["error"]
    assert keyed_target.asked() == asked


def test_who_has_a_key_gets_no_more_by_it_than_routes(keyed_target: Target):
    log = keyed_target.engine_log()
    for path in spellings():
        raw = path.encode().decode("latin-1")
        status, told = keyed_target.send("POST", raw, BODY, KEY)
        assert status in (200, 400, 404, 405, 406), (path[:100], status)
        if status != 200:
            assert len(told) < 10_000 and json.loads(told)
    assert keyed_target.engine_log() == log


def test_a_line_that_is_too_long_is_refused(target: Target):
    for wire in (
        b"GET /" + b"a" * 10_000_000,
        b"POST /rerank?" + b"a" * 100_000 + b" HTTP/1.1\r\n",
    ):
        [answer] = target.talk(wire)
        assert answer.status == 413 and "more than 65536 bytes" in answer.told["message"]


# -- two requests in one ---------------------------------------------------------------------------


def test_no_request_hides_in_another(target: Target):
    """What could be read in two ways gets one refusal; the request behind it is never read."""
    smuggled, asked = request("POST /rerank HTTP/1.1"), target.asked()
    for wire in DOUBTFUL:
        told = target.talk(wire.replace(HIDDEN, smuggled) if HIDDEN in wire else wire + smuggled)
        assert [answer.status for answer in told] == [400], wire
        assert told[0].headers["connection"] == "close" and told[0].told["error"]["code"] == 400
    assert target.asked() == asked


def test_a_key_is_for_its_own_request_only(keyed_target: Target):
    keyed = f"POST /rerank HTTP/1.1\r\nx-api-key: {KEY}"
    for first, second, expected in (
        (keyed, "POST /rerank HTTP/1.1", [200, 401]),
        ("POST /rerank HTTP/1.1", keyed, [401, 200]),
        (keyed, f"POST /rerank HTTP/1.1\r\nx-api-key: {KEY}x", [200, 401]),
    ):
        wire = request(first) + request(f"{second}\r\nConnection: close")
        assert [answer.status for answer in keyed_target.talk(wire)] == expected
    chunks = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n"
    wire = CHUNKED.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode() + chunks
    [answer] = keyed_target.talk(wire + f"x-api-key: {KEY}\r\n\r\n".encode())
    assert answer.status == 401  # what stands behind a body is no header


def test_a_body_is_no_request(target: Target):
    """Whatever is in it, and however it is cut."""
    inner = request("POST /rerank HTTP/1.1") * 3
    asked = target.asked()
    for cut in (1, 40, 100, len(inner) // 2):
        wire = request("POST /nothing HTTP/1.1\r\nConnection: close", inner)
        [answer] = target.talk(wire[:-cut], wire[-cut:])
        assert answer.status in (401, 404)
    assert target.asked() == asked


# -- too much --------------------------------------------------------------------------------------

GIB = 1024 * MIB
MOST = 32 * MIB  # of a body, by default
SLACK = (
    96 * MIB
)  # that memory may grow by: a body, its copies on the way, and what is not given back
ZEROS = b" " * MIB


def send_all(connection: socket.socket, begin: bytes, pieces: Sequence[bytes]) -> None:
    """Sends what is taken."""
    with suppress(ConnectionError):
        connection.sendall(begin)
        for piece in pieces:
            connection.sendall(piece)


def test_a_gibibyte_is_refused_before_it_is_read(open_target: Target):
    before = open_target.rss()
    declared = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {GIB}\r\n\r\n".encode()
    with open_target.connect() as connection:
        connection.sendall(declared)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")  # and nothing was sent yet
    chunk = b"100000\r\n" + ZEROS + b"\r\n"
    for begin, piece in ((declared, ZEROS), (CHUNKED.encode(), chunk)):
        with open_target.connect() as connection:
            send_all(connection, begin, [piece] * 1024)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
            assert open_target.rss() < before + MOST + SLACK
    assert open_target.is_well()


def test_half_sent_bodies_do_not_fill_the_memory(open_target: Target):
    """Forty bodies of 30 MB, none of which ends: most of them wait, the others are told to."""
    before, size = open_target.rss(), 30 * MIB
    head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    with ExitStack() as stack:
        clients = [stack.enter_context(open_target.connect()) for _ in range(40)]
        with ThreadPoolExecutor(len(clients)) as threads:
            list(threads.map(lambda c: send_all(c, head, [ZEROS] * 29), clients))
        assert open_target.rss() < before + 512 * MIB + 128 * MIB
        answered = set()
        for client in clients:
            client.setblocking(False)
            with suppress(BlockingIOError):
                answered.add(client.recv(100).split(b" ")[1])
        assert b"429" in answered and answered <= {b"429", b"408"}  # 408 where this took long
    assert open_target.is_well()


NESTED = b'{"query": "q", "passages": ' + b"[" * 5_000_000
LISTS = b'{"query": "q", "documents": [' + b"[]," * 5_000_000 + b'"a"]}'
KEYS = b"{" + b",".join(b'"%07d": 1' % number for number in range(1_000_000)) + b"}"
SAME = b"{" + b'"query": "q", ' * 1_000_000 + b'"passages": ["a"]}'
DIGITS = b'{"query": "q", "passages": ["a"], "top_n": ' + b"9" * 10_000_000 + b"}"
HOLES = b'{"query": "q", "passages": ["a", ' + b"null, " * 1_000_000 + b"1]}"


@pytest.mark.parametrize(
    ("body", "status"),
    [(NESTED, 400), (LISTS, 413), (KEYS, 400), (SAME, 200), (DIGITS, 400), (HOLES, 413)],
    ids=["nested", "lists", "keys", "same", "digits", "holes"],
)
def test_large_bodies_of_an_odd_form(open_target: Target, body: bytes, status: int):
    assert open_target.send("POST", "/rerank", body)[0] == status


def test_a_thousand_silent_connections_disturb_nobody(target: Target):
    assert raise_descriptors() > 1500, "raise `ulimit -Hn` for this test"
    key = KEY if target.server.env.get("RERANK_API_KEY") else ""
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(target.connect())
            connection.sendall((b"", b"G", b"POST /rerank HTTP/1.1\r\n")[number % 3])
        assert all(target.is_well(key) for _ in range(20))
    assert target.is_well(key)


class Limited(Server):
    """One that may have few descriptors, whatever it does."""

    descriptors = 300

    def __enter__(self) -> "Limited":
        limited = f'ulimit -n {self.descriptors}; exec "$0" -m serve up "$@"'
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                ["sh", "-c", limited, sys.executable, *self.arguments],
                cwd=ROOT,
                env=self.env,
                stdout=output,
                stderr=output,
            )
        wait_until(lambda: self._find_url() or self.process.poll() is not None, 20, self.text)
        return self


def test_where_there_is_room_for_few_the_engine_can_still_be_reached(tmp_path: Path):
    most = (Limited.descriptors - 128) // 2
    with Limited(write_config(tmp_path), tmp_path) as server, ExitStack() as stack:
        target = Target(server.until_ready(), tmp_path)
        with target.connect() as inside, inside.makefile("rb") as answers:
            inside.sendall(request("POST /rerank HTTP/1.1"))
            assert next_answer(answers)
            for _ in range(Limited.descriptors):
                stack.enter_context(target.connect())
            [refused] = target.talk(request("POST /rerank HTTP/1.1"))
            assert refused.status == 503 and refused.headers["retry-after"]
            assert f"{most} connections are open" in refused.told["message"]
            inside.sendall(request("POST /rerank HTTP/1.1"))
            answer = next_answer(answers)
            assert answer and answer.status == 200
        stack.close()
        wait_until(lambda: answers_of(target) == [200], 20)
        assert target.is_well()
    assert "Traceback" not in server.text()


def answers_of(target: Target) -> list[int]:
    """How a new client fares, who may be reset instead of told."""
    return [answer.status for answer in target.talk(request("GET /health HTTP/1.0", b""))]


def test_a_body_that_drips_ends_with_the_requests_time(tmp_path: Path):
    config = write_config(tmp_path, "limits: {timeout_s: 2}\n")
    with Server(config, tmp_path) as server:
        target = Target(server.until_ready(), tmp_path)
        with target.connect() as connection:
            connection.sendall(request("POST /rerank HTTP/1.1", BODY + b" " * 10_000)[:-9_999])
            connection.settimeout(0.1)
            deadline, told = time.monotonic() + PATIENCE_S, b""
            while not told and time.monotonic() < deadline:
                connection.sendall(b" ")
                with suppress(TimeoutError):
                    told = connection.recv(10_000)
    assert told.startswith(b"HTTP/1.1 408 ") and b"connection: close" in told
    assert b"within 2: send it at once" in told


# -- a stop ----------------------------------------------------------------------------------------


def test_nobody_holds_up_a_stop(tmp_path: Path):
    """Half a head, half a body, and an answer of megabytes that nobody reads."""
    passages = [f"{number} " + "word " * 500 for number in range(5000)]
    large = json.dumps({"query": "q", "documents": passages, "return_documents": True}).encode()
    config = write_config(tmp_path, "limits: {stop_timeout_s: 60}\n")
    with Server(config, tmp_path) as server, ExitStack() as stack:
        target = Target(server.until_ready(), tmp_path)
        reader, head, body, idle = (stack.enter_context(target.connect()) for _ in range(4))
        reader.sendall(request("POST /v2/rerank HTTP/1.1", large))
        assert reader.recv(20).startswith(b"HTTP/1.1 200 ")
        head.sendall(b"POST /rerank HTTP/1.1\r\nHost")
        body.sendall(request("POST /rerank HTTP/1.1")[:-5])
        idle.sendall(request("GET /health HTTP/1.1", b""))
        assert idle.recv(100).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: requests_in_flight(target) == 2, 20)  # this one, and the body
        server.process.terminate()
        [told] = all_answers(body)
        assert told.status == 503 and told.headers["retry-after"]
        assert "stopping" in told.told["message"]
        assert server.wait(30) == 0  # a few seconds, of which uvicorn gives the reader five


def requests_in_flight(target: Target) -> float:
    told = target.server.get("/metrics").text
    found = re.search(r"^rerank_requests_in_flight (\S+)$", told, re.MULTILINE)
    assert found
    return float(found[1])


# -- ports -----------------------------------------------------------------------------------------

LISTENING = "0A"


def listeners(pids: set[int]) -> list[str]:
    """The local addresses of TCP that these processes listen on, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and inode in inodes:
                found.append(local)
    return found


def test_no_port_but_the_gateways(target: Target):
    """Of the real vLLM the same is told in `test_end_to_end.py`."""
    server = target.server
    below = server.descendants()
    assert len(alive(below)) >= 3  # guard, engine, and what that has started
    assert listeners(below) == []
    assert listeners({server.process.pid}) == [f"0100007F:{target.address[1]:04X}"]


# -- last, since they have waited meanwhile --------------------------------------------------------


def test_who_takes_too_long_is_let_go(slow: Slow):
    for thread in slow.threads:
        thread.join()
    for name, (_, statuses) in SLOW.items():
        answers = slow.answers[name]
        assert [answer.status for answer in answers] == statuses, name
        if 408 in statuses:
            assert answers[-1].headers["connection"] == "close"
            assert b'"type":"request_timeout"' in answers[-1].body
        most_s = REST_S if "nobody" in name or "no route" in name else HEAD_S
        assert 0.9 * most_s < slow.took_s[name] < most_s + PATIENCE_S, name
