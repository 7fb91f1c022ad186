"""A hundred thousand bodies that nobody would write, in every API, and requests that are none.

Whatever comes, the answer is JSON: the right score for each passage, or an error that says what is
wrong. Seeds are fixed, so a failure comes again; each names its own.
"""

import asyncio
import http.client
import json
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from serve import dialects
from serve.auth import Keys
from serve.catalog import Catalog
from serve.gateway import Gateway
from serve.pool import Pool
from serve.protocol import Protocol
from serve.replica import Replica
from serve.rerank import RawScores, sigmoids
from serve.spec import Cache, Limits, Model
from serve.stack import Stack
from serve.vllm_log import Progress
from tests.bodies import ASKING, MORE, PINECONE, Asking
from tests.fake_vllm import logit
from tests.harness import Server, write_config
from tests.test_dialect_properties import READ
from tests.test_leaving import agents_call
from tests.test_protocol import DOUBTFUL, chunked
from tests.test_protocol import request as post

BODIES, BY_HTTP, WIRES = 100_000, 5_000, 5_000
LIMITS = Limits(passages=40, text_chars=2000, body_bytes=20_000)
ALL = (*ASKING, *MORE)
READERS = {asking.dialect: asking for asking in ASKING}
PATHS = sorted({asking.path for asking in ALL} | set(dialects.by_path()))

# -- what is sent ----------------------------------------------------------------------------------


def deep(depth: int, within: Any = 1) -> Any:
    for _ in range(depth):
        within = random.Random(depth).choice([[within], {"text": within}])
    return within


VALUES: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        3,
        -1,
        -2,
        5.0,
        0.5,
        -0.0,
        1e308,
        2**53,
        2**63,
        2**64 - 1,
        -(2**63),
    ),
    *(
        "",
        " ",
        "q",
        "0",
        "2",
        "-1",
        "٣",
        "1_0",
        "1e3",
        "true",
        "False",
        "none",
        "END",
        "Left",
        "\0",
    ),
    *("\ud7ff", "\uffff", "\U0010ffff", "e\u0301" * 9, "\u202e", "</s>", "[SEP]", "<|im_end|>"),
    *(
        "fake",
        "org/fake",
        "default",
        "gpt",
        "disabled",
        "do_not_pad",
        "x" * 2001,
        "\n" * 99,
        "'\"\\",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        [None],
        [""],
        ["a"],
        ["a", 1],
        ["a", None],
        [{"text": "a"}],
        ["x", "text"],
    ),
    *([{"content": "a"}], [{"text": ["a"]}], [{"content": [{"type": "text", "text": "a"}]}]),
    *([{"text": None}], [{"text": ""}, "a"], ["a"] * 40, ["a"] * 41, ["a"] * 300, [{"x": "y"}]),
    *(
        {"text": "a"},
        {"content": "a"},
        {"text": {}},
        {"": ""},
        {"mode": "disabled"},
        {"instruction": 1},
    ),
    *({"instruction": "i"}, {"truncate": "END"}, {"top_n": 1}, {"0": "a"}, deep(30), deep(500)),
)
TOKENS = (
    *(b"NaN", b"Infinity", b"-", b"1e400", b"1E-400", b"9" * 30, b"0" * 9, b"\\u0000", b"\\ud800"),
    *(
        b"\\udc00\\ud800",
        b"\\x",
        b"\0",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"//",
    ),
    *(
        b'"',
        b"'",
        b"\\",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"null",
        b"true",
        b"[[[[",
        b'{"a":' * 9,
    ),
    *(b'"query":', b'"documents":', b'"passages":[', b'"top_n":', b'"text":', b'"model":"x",'),
)
NUMBERS, SWITCHES = (None, 0, 1, 2, 3, "2", 5.0, 99, 10**12), (None, True, False, "true", 0, "")
USUAL: Mapping[str, Sequence[Any]] = {  # what good bodies have in such fields
    **dict.fromkeys(("top_n", "top_k", "max_chunks_per_doc", "priority"), NUMBERS),
    **dict.fromkeys(("max_tokens_per_doc", "max_tokens_per_query"), NUMBERS),
    **dict.fromkeys(("return_documents", "return_text", "return_input"), SWITCHES),
    **dict.fromkeys(("use_activation", "raw_scores", "truncation", "use_llm"), SWITCHES),
    "truncate": (None, "END", "NONE", "none", True, ""),
    "truncate_prompt_tokens": (None, -1, "-1", 5, 512),
    "model": ("fake", "FAKE", "org/fake", "gpt", "", "default", None),
    "rank_fields": (None, [], ["text"], ["x", "text"]),
    "request_id": ("mine", "", None, "\0"),
}
TEXTS = ("a", "b c", "d", "", "a b c d e", "ünï", "🙂", "</s>", "a\0b")
HEADERS: Sequence[Mapping[str, str]] = (
    *({}, {}, {}, {}, PINECONE, {"content-type": "text/plain"}, {"x-request-id": "\x7f" * 9}),
    *({"x-rerank-timeout": "60"}, {"x-rerank-timeout": "nan"}, {"x-request-id": "mine"}),
)


@dataclass(frozen=True)
class Sent:
    """One request."""

    path: str
    body: bytes
    headers: Mapping[str, str]


class Writer:
    """Writes bodies: good ones, and what becomes of them in careless or hostile hands."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Sent]:
        any_of = self._random
        while True:
            asking = any_of.choice(ALL)
            path = asking.path if any_of.random() < 0.9 else any_of.choice(PATHS)
            body = self._body(asking)
            for _ in range(any_of.choice((0, 0, 0, 1, 1, 2, 4))):
                body = self._edited(body)
            content = json.dumps(body, ensure_ascii=any_of.random() < 0.2).encode()
            if any_of.random() < 0.25:
                for _ in range(any_of.choice((1, 1, 2, 8))):
                    content = self._broken(content)
            yield Sent(path, content, {**asking.headers, **any_of.choice(HEADERS)})

    def _body(self, asking: Asking) -> Any:
        """A good body, and some fields with it that may do no harm."""
        passages = self._random.choices(TEXTS, k=self._random.choice((0, 1, 2, 3, 5, 9, 40)))
        body = asking.make(self._random.choice(TEXTS), passages)
        for name in self._random.sample(sorted(USUAL), k=self._random.choice((0, 0, 1, 3))):
            body.setdefault(name, self._random.choice(USUAL[name]))
        return body

    def _edited(self, body: Any) -> Any:
        """The body with one of its values changed, gone, doubled, wrapped or elsewhere."""
        if not isinstance(body, dict | list) or not body or self._random.random() < 0.02:
            return self._random.choice(VALUES)
        changed: Any = body.copy()
        names = list(body) if isinstance(body, dict) else range(len(body))
        name = self._random.choice(names)
        match self._random.randrange(8):
            case 0:
                changed[name] = self._random.choice(VALUES)
            case 1:
                del changed[name]
            case 2:
                many = 41 if isinstance(changed[name], str) else 2
                changed[name] = [changed[name]] * self._random.choice((1, 1, 2, many))
            case 3:
                changed[name] = {self._random.choice(("text", "content", "x", "")): changed[name]}
            case 4:
                changed[name] = changed[self._random.choice(names)]
            case 5 if isinstance(changed, dict):
                changed[self._random.choice(READ)] = changed.pop(name)
            case 6 if isinstance(changed, dict):
                changed[self._random.choice(READ)] = self._random.choice(VALUES)
            case _:
                changed[name] = self._edited(changed[name])
        return changed

    def _broken(self, content: bytes) -> bytes:
        """The bytes with one place of them changed."""
        any_of = self._random
        start = any_of.randrange(len(content) + 1)
        end = min(len(content), start + any_of.choice((0, 1, 1, 2, 5, 30)))
        match any_of.randrange(6):
            case 0:
                between = any_of.choice(TOKENS)
            case 1:
                between = content[start:end] * 2
            case 2:
                between = bytes(any_of.choices(range(256), k=any_of.choice((1, 2, 4))))
            case 3:
                between = content[start:end][::-1]
            case 4:
                between = bytes(byte ^ (1 << any_of.randrange(8)) for byte in content[start:end])
            case _:
                between = b""
        return content[:start] + between + content[end:]


# -- what must come back ---------------------------------------------------------------------------

STATUSES = {200, 400, 404, 413}


def check(sent: Sent, status: int, answer: Any, scored: Sequence[float] | None) -> str:
    """Fails unless the answer is a right one, or an error as they are told. Its dialect's name.

    `scored` are the raw values that an engine gave for the request's pairs, if that is known.
    """
    assert status in STATUSES, answer
    if status != 200:
        assert answer["message"] and answer["message"] == answer["detail"]
        error = answer["error"]
        assert error == answer["message"] or (
            set(error) == {"message", "type", "param", "code"}
            and (error["message"], error["code"]) == (answer["message"], status)
        )
        assert "Traceback" not in answer["message"]
        return ""
    sharing = dialects.by_path()[normal(sent.path)]
    body = orjson.loads(sent.body)
    dialect = sharing.choose(body, sent.headers)
    request = dialect.parse(body)
    found = READERS[dialect.name].read(answer)
    pairs = len(request.passages)
    assert len(found) == min(request.top_n or pairs, pairs) and set(found) <= set(range(pairs))
    is_raw = request.raw or READERS[dialect.name].is_raw
    assert all(type(score) is float and math.isfinite(score) for score in found.values())
    assert is_raw or all(0 <= score <= 1 for score in found.values())
    if scored is not None:
        assert len(scored) == pairs
        right = scored if is_raw else sigmoids(scored)
        assert all(score == right[index] for index, score in found.items())
    return dialect.name


def normal(path: str) -> str:
    """The path of `dialects` that a client's path means."""
    from serve.paths import normal

    return normal(path)


class Scorer:
    """In place of an engine: scores what it is sent, and notes what it said."""

    def __init__(self) -> None:
        self.said: list[float] = []

    async def score(self, body: bytes, pairs: int) -> RawScores:
        asked = orjson.loads(body)
        passages, queries = asked["documents"], asked["queries"]
        queries = [queries] * pairs if isinstance(queries, str) else queries
        assert len(passages) == len(queries) == pairs
        values = [logit(*pair) for pair in zip(queries, passages, strict=True)]
        self.said += values
        return RawScores(values, 1)

    def close(self) -> None:
        pass


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Fails when anything is logged as an error, or with a traceback."""
    records: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR or record.exc_info:
                records.append(self.format(record))

    noting = Noting()
    logging.getLogger().addHandler(noting)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(noting)
    assert records == []


async def ask(gateway: Gateway, sent: Sent) -> tuple[int, bytes]:
    """What the application answers."""
    messages = [{"type": "http.request", "body": sent.body, "more_body": False}]
    told: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        told.append(message)

    headers = [(name.encode(), value.encode()) for name, value in sent.headers.items()]
    scope = {"type": "http", "method": "POST", "path": sent.path, "headers": headers}
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "http_version": "1.1"}
    await gateway(scope, receive, send)
    return told[0]["status"], told[1]["body"]


def test_a_hundred_thousand_bodies(record_property: Callable[[str, object], None]):
    scorer = Scorer()
    model = Model(model="a/b", names=("fake", "org/fake"), limits=LIMITS, cache=Cache(0))
    replica = Replica(scorer, progress=Progress("ready"))  # type: ignore[arg-type]
    gateway = Gateway(Catalog(Stack.of(model), [Pool(model, [replica])]), keys=Keys())
    outcomes: Counter[str] = Counter()

    async def run() -> None:
        for number, sent in enumerate(islice(Writer(1), BODIES)):
            scorer.said.clear()
            try:
                status, content = await ask(gateway, sent)
                name = check(sent, status, orjson.loads(content), scorer.said)
            except Exception as error:
                raise AssertionError(f"body {number}: {sent}") from error
            outcomes[name or str(status)] += 1
        assert gateway.in_flight == 0 and len(asyncio.all_tasks()) == 1

    with nothing_logged():
        asyncio.run(run())
    told = ", ".join(f"{name} {number}" for name, number in sorted(outcomes.items()))
    record_property("measured", f"{BODIES} bodies: {told}")
    for name in (*READERS, "400", "404", "413"):  # else it would test little
        assert outcomes[name] > BODIES // 500, name


# -- over HTTP -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("fuzz")
    limits = "limits: {passages: 40, text_chars: 2000, body_bytes: 20000}\n"
    with Server(write_config(work, limits), work) as server:
        yield server.until_ready()
    assert "Traceback" not in server.text() and " failed\n" not in server.text()


def test_thousands_over_http(server: Server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    for number, sent in enumerate(islice(Writer(2), BY_HTTP)):
        headers = {"content-length": str(len(sent.body)), **sent.headers}
        connection.request("POST", sent.path, sent.body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.headers["content-type"] == "application/json", (number, sent)
        try:
            check(sent, answer.status, json.loads(content), None)
        except Exception as error:
            raise AssertionError(f"body {number}: {sent}") from error
    connection.close()
    assert len(server.rerank("q", ["a"])) == 1


@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
def test_agents_bodies_over_http(server: Server, version: str):
    """The `mcp` package reads these first."""
    head, _, body = agents_call(version).replace(b"!slow 60", b"q").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = {name: value for name, value in (line.split(": ") for line in lines)}
    del headers["Content-Length"]
    writer, connection = Writer(3), http.client.HTTPConnection(server.url[7:], timeout=60)
    for number in range(300):
        message = writer._edited(json.loads(body)) if number else json.loads(body)
        content = json.dumps(message).encode()
        content = writer._broken(content) if number % 3 == 2 else content
        connection.request("POST", "/mcp", content, headers)
        answer = connection.getresponse()
        told = answer.read()
        assert answer.status < 500, (number, content, told)
        if number == 0:
            result = json.loads(told)["result"]["structuredContent"]
            assert len(result["results"]) == 3
    connection.close()


# -- requests that are none ------------------------------------------------------------------------


class Taker:
    """In place of a transport: takes what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written += data

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def wires(seed: int) -> Iterator[bytes]:
    """One to three requests behind each other, good and doubtful ones, with places changed."""
    any_of, writer = random.Random(seed), Writer(seed)
    good = [
        *(post(b"{}"), post(b'{"a": 1}', b""), chunked(b"hello, hello", b""), chunked(b"x")),
        *(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /x HTTP/1.0\r\n\r\n"),
        post(b"x", b"Expect: 100-continue\r\n"),
        post(b"x", b"Connection: close\r\n"),
    ]
    while True:
        parts = any_of.choices([*good * 8, *DOUBTFUL], k=any_of.choice((1, 2, 3)))
        wire = b"".join(parts)
        for _ in range(any_of.choice((0, 1, 1, 2, 5))):
            wire = writer._broken(wire)
        yield wire


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hear(config: uvicorn.Config, segments: Sequence[bytes]) -> tuple[bytes, bool]:
    """What the protocol writes to that, and whether it has closed the connection."""
    taker = Taker()
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(taker)  # type: ignore[arg-type]
    for segment in segments:
        if not taker.is_closed:
            protocol.data_received(segment)
        await asyncio.sleep(0)
    while protocol.tasks and (protocol._is_busy and not protocol.cycle.more_body):
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    while protocol.tasks:
        await asyncio.sleep(0)
    return bytes(taker.written), taker.is_closed


def answers(written: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer. Fails for what is none."""
    found = []
    while written:
        head, end, rest = written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ") and end
        lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        length = int(headers.get(b"content-length", b"0"))
        assert len(rest) >= length
        status = int(lines[0].split()[1])
        if status != 100:
            found.append((status, rest[:length]))
        written = rest[length:]
    return found


def test_wires_are_read_in_one_way():
    """However they are cut, the answers are the same, each of them once; a refusal is the last."""
    statuses: Counter[int] = Counter()

    async def run() -> None:
        config = uvicorn.Config(echo, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        any_of = random.Random(5)
        for number, wire in enumerate(islice(wires(4), WIRES)):
            cut = any_of.randrange(len(wire) + 1)
            ways = [[wire], [wire[:cut], wire[cut:]]]
            if number % 5 == 0:
                ways.append([wire[at : at + 1] for at in range(len(wire))])
            told = []
            for way in ways:
                written, is_closed = await hear(config, [part for part in way if part])
                found = answers(written)
                assert all(status == 200 for status, _ in found[:-1]), (number, wire)
                assert not found or found[-1][0] == 200 or is_closed, (number, wire)
                told.append((found, is_closed))
            assert all(one == told[0] for one in told), (number, wire, told)
            statuses.update(status for status, _ in told[0][0])

    with nothing_logged():
        asyncio.run(run())
    assert set(statuses) <= {200, 400, 413} and min(statuses[200], statuses[400]) > WIRES // 5
