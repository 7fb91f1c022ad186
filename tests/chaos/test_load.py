"""The load generator: that it sends what it is told, and lets nothing wrong pass as right."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.load import Load
from tests.chaos.traffic import (
    GAVE_UP,
    LOST,
    UNSENT,
    Ask,
    Record,
    bursty,
    is_wrong,
    mix,
    steady,
    summarise,
    timeline,
)

ASK = Ask("q", ["a", "b"], {}, 30.0)


def expected(query: str, passages: Sequence[str]) -> list[float]:
    return [len(query) / (1 + len(passage)) for passage in passages]


RIGHT = orjson.dumps(expected("q", ["a", "b"]))


@pytest.mark.parametrize(
    ("status", "body", "is_bad"),
    [
        (200, RIGHT, False),
        (200, b"[0.5,0.50000001]", True),
        (200, b"[0.5]", True),
        (200, b"[0.5,0.5,0.5]", True),
        (200, b"[0.5,null]", True),
        (200, b'{"message": "x"}', True),
        (200, b"[0.5,", True),
        (429, b'{"message": "x"}', False),
        (500, b"Internal Server Error", True),
        (503, b"{}", True),
        (503, RIGHT, True),
    ],
)
def test_what_is_wrong(status: int, body: bytes, is_bad: bool):
    assert is_wrong(ASK, status, body, expected, 0.0) == is_bad


def test_scores_may_be_a_little_off():
    assert not is_wrong(ASK, 200, b"[0.5,0.50000001]", expected, 1e-6)
    assert is_wrong(ASK, 200, b"[0.5,0.6]", expected, 1e-6)


def test_a_mix():
    asks = list(islice(mix({1: 3, 7: 1}, words=12, timeout_s=2.5, seed=4), 400))
    sizes = [len(ask.passages) for ask in asks]
    assert set(sizes) == {1, 7} and 0.6 < sizes.count(1) / 400 < 0.9
    texts = [text for ask in asks for text in (ask.query, *ask.passages)]
    assert len(set(texts)) == len(texts)
    assert {len(text.split()) for ask in asks for text in ask.passages} == {12}
    assert {ask.headers["x-rerank-timeout"] for ask in asks} == {"2.5"}
    assert list(islice(mix({1: 3, 7: 1}, words=12, timeout_s=2.5, seed=4), 400)) == asks


def test_moments():
    assert steady(4, 1) == [0, 0.25, 0.5, 0.75]
    moments = bursty(100, 10)
    assert moments == sorted(moments) == bursty(100, 10) and moments[-1] < 10
    assert 800 < len(moments) < 1200


def test_a_summary():
    records = [
        Record(1.0, 1.5, 3, "200"),
        Record(1.0, 4.0, 5, "200"),
        Record(2.0, 3.0, 9, "200", is_wrong=True),
        Record(2.0, 9.0, 7, "504"),
        Record(2.0, 99.0, 7, UNSENT),
        Record(5.0, 11.0, 7, LOST),
    ]
    summary = summarise(records)
    assert summary.outcomes == {"200": 3, "504": 1, LOST: 1, UNSENT: 1}
    assert summary.wrong == [records[2]]
    assert summary.goodput == 8 / 98
    assert (summary.quantile(0), summary.quantile(0.5), summary.quantile(1)) == (0.5, 1, 3)
    assert summary.slowest_s == 7
    assert timeline(records[:4]) == [0, 3, 0, 0, 5, 0, 0, 0, 0, 0]
    assert "3 x 200" in str(summary) and "1 wrong" in str(summary)
    assert str(summarise([])) and timeline([]) == []


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_a_quantile_is_what_so_many_stayed_within(latencies: list[float], share: float):
    summary = summarise([Record(0, latency, 1, "200") for latency in latencies])
    bound = summary.quantile(share)
    assert bound in latencies
    assert sum(latency <= bound for latency in latencies) >= share * len(latencies) * (1 - 1e-9)


# Over a real socket.


class Site:
    """A server of raw HTTP: `answer` gives the bytes for a request's JSON, or None to hang."""

    def __init__(self, answer: Callable[[dict], bytes | None]) -> None:
        self.answer = answer
        self.connections = self.open = self.most_open = 0
        self.heads: list[str] = []
        self.seconds = 0.0  # before each answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                answer = self.answer(orjson.loads(await reader.readexactly(length)))
                await asyncio.sleep(3600 if answer is None else self.seconds)
                if not answer:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


@asynccontextmanager
async def loading(site: Site, connections: int = 100) -> AsyncIterator[Load]:
    server = await asyncio.start_server(site, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        async with Load(url, expected, connections=connections, headers={"x-a": "b"}) as load:
            yield load
    finally:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # those that hang
            task.cancel()
        await asyncio.sleep(0)


def http(status: int, body: bytes, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def good(asked: dict) -> bytes:
    return http(200, orjson.dumps(expected(asked["query"], asked["passages"])))


def test_a_closed_loop_keeps_its_connections():
    async def run() -> list[Record]:
        async with loading(site) as load:
            return await load.closed_loop(mix({1: 1, 5: 1}, timeout_s=3), clients=4, seconds=0.5)

    site = Site(good)
    summary = summarise(asyncio.run(run()))
    assert set(summary.outcomes) == {"200"} and not summary.wrong
    assert site.connections == 4 and len(site.heads) == summary.outcomes["200"] > 4
    assert all("x-rerank-timeout: 3\r\n" in head and "x-a: b\r\n" in head for head in site.heads)


def test_an_open_loop_does_not_wait_for_answers():
    async def run() -> list[Record]:
        async with loading(site, connections=10) as load:
            return await load.open_loop(mix({2: 1}, patience_s=1), steady(1000, 0.03))

    site = Site(lambda _: None)
    records = asyncio.run(run())
    assert summarise(records).outcomes == {GAVE_UP: 10, UNSENT: 20}
    assert site.most_open == 10
    assert all(record.end - record.begin >= 0.95 for record in records if record.outcome == GAVE_UP)


def test_every_outcome_is_told_apart():
    answers = iter(
        [
            http(429, b'{"message": "wait"}', "Retry-After: 7\r\n"),
            b"",
            b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n[0.5",  # and no more
            http(200, b"[0.5,0.5]", "connection: close\r\n"),
            http(200, b"[0.5,0.1]"),
            http(500, b"Traceback"),
        ]
    )

    async def run() -> list[Record]:
        async with loading(site) as load:
            return [await load.ask(Ask("q", ["a", "b"], {}, 0.5)) for _ in range(6)]

    site = Site(lambda _: next(answers))
    records = asyncio.run(run())
    assert [(record.outcome, record.is_wrong) for record in records] == [
        ("429", False),
        (LOST, False),
        (GAVE_UP, False),
        ("200", False),
        ("200", True),
        ("500", True),
    ]
    assert (records[0].retry_after, records[0].told) == ("7", '{"message": "wait"}')
    assert records[5].told == "Traceback"
    # Anew after each that was lost, given up or closed.
    assert site.connections == 4


def test_nobody_there():
    async def run(url: str) -> Record:
        async with Load(url, expected) as load:
            return await load.ask(ASK)

    assert asyncio.run(run("http://127.0.0.1:1")).outcome == LOST
