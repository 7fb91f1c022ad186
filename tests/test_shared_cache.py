"""The cache that servers share, on a real Redis: what one has scored, the other one does not; and
whatever happens to that Redis, every answer is right, and none waits for it."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from serve import weights
from serve.arguments import REDIS_VARIABLE, redis_url
from serve.errors import ConfigError
from serve.events import Events
from serve.fleet import Member, Program
from serve.known import Known, decode, encode
from serve.rerank import Chunk, RawScores, RerankRequest
from serve.reuse import Reuse
from serve.shared_cache import LIMIT_S, MOST_TOLD, PREFIX, SharedCache
from serve.spec import Model
from tests.certificates import self_signed
from tests.fake_vast import free_port
from tests.harness import ROOT, Server, descendants, wait_until, write_config

MIB = 1024 * 1024
PATIENT_S = 10.0  # for tests that are not about time, on a busy machine
REST_S = 0.1


class RedisServer:
    """A `redis-server` of a test's own, on a Unix socket, which keeps nothing."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))  # short, as Unix sockets need it
        self.socket = self.folder / "sock"
        self.url = f"unix://{self.socket}"
        self._options = ("--port", "0", "--save", "", "--appendonly", "no", *options)

    def start(self) -> None:
        command = ["redis-server", "--unixsocket", self.socket, "--dir", self.folder]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log)
        wait_until(lambda: "eady to accept" in self.text() or self.process.poll(), 20, self.text)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        (self.folder / "log").unlink()

    @property
    def client(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=str(self.socket))

    def ours(self) -> dict[bytes, bytes]:
        """All that is in there but the proof, by key."""
        with self.client as client:
            keys = [key for key in client.scan_iter() if len(key) == len(PREFIX) + 32]
            return dict(zip(keys, client.mget(keys), strict=True)) if keys else {}


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    """One for the tests that leave it running."""
    if shutil.which("redis-server") is None and "CI" not in os.environ:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = RedisServer()
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest.fixture
def server(shared_redis: RedisServer) -> RedisServer:
    """The same, empty."""
    with shared_redis.client as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def mortal(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """One that the test may kill."""
    server = RedisServer()
    server.start()
    yield server
    server.process.kill()
    server.process.wait()
    shutil.rmtree(server.folder)


class Heard(Events):
    def __init__(self) -> None:
        self.reuses: list[tuple[str, int]] = []
        self.failures = 0

    def reused(self, model: str, how: str, pairs: int) -> None:
        self.reuses.append((how, pairs))

    def shared_cache_failed(self) -> None:
        self.failures += 1


def value(passage: str) -> float:
    return Random(passage).uniform(-9, 9)


@dataclass
class Gateway:
    """A server's cache in front of an engine that counts."""

    cache: SharedCache
    reuse: Reuse
    heard: Heard
    asked: list[list[str]]

    async def fresh(self, request: RerankRequest) -> RawScores:
        self.asked.append(list(request.passages))
        long = [place for place, passage in enumerate(request.passages) if "long" in passage]
        chunks = {} if request.max_chunks == 1 else {p: Chunk(1, 3, 4, 9) for p in long}
        cut = [] if chunks else long
        values = [value(passage) for passage in request.passages]
        return RawScores(values, len(values), cut=cut, chunks=chunks)

    async def score(self, *passages: str, max_chunks: int = 1) -> RawScores:
        request = RerankRequest(["q"], list(passages), max_chunks=max_chunks)
        raw = await self.reuse.score(request, self.fresh)
        assert raw.values == [value(passage) for passage in passages]
        return raw


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(
    url: str, *, limit_s: float = PATIENT_S, memory: int = MIB, up: bool = True
) -> AsyncIterator[Gateway]:
    heard = Heard()
    cache = SharedCache(url, heard, limit_s=limit_s, rest_s=REST_S)
    one = Gateway(cache, Reuse("m", memory, heard, cache), heard, [])
    async with cache.running():
        if up:
            await until(lambda: cache.is_up)
        yield one


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nothing is left

    asyncio.run(within())


# -- values ----------------------------------------------------------------------------------------

floats = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.integers(0, 2**53)
chunks = st.builds(
    lambda i, more, start, length: Chunk(i, i + 1 + more, start, start + length), *[sizes] * 4
)


@given(floats | st.tuples(floats, st.booleans(), st.none() | chunks))
def test_a_value_is_read_as_it_was_written_to_the_last_bit(known: Known):
    read = decode(encode(known))
    assert read == known and repr(read) == repr(known)  # which tells -0.0 from 0.0
    assert b"rerank" not in encode(known) and len(encode(known)) < 200


HOSTILE = (
    b"", b"null", b"NaN", b"Infinity", b"1e999", b"1", b"true", b'"0.5"', b"[]", b"{}", b"[0.5]",
    b"[0.5,true]", b"[0.5,1,null]", b"[1,true,null]", b"[null,true,null]", b"[0.5,true,null,0]",
    b"[0.5,true,[1,2,3,4]]", b"[0.5,true,{}]", b"[0.5,true,1]", b'{"value":0.5}', b"\xff\x00",
    b'[0.5,true,{"index":2,"count":2,"start":0,"end":1}]',
    b'[0.5,true,{"index":0,"count":2,"start":3,"end":1}]',
    b'[0.5,true,{"index":-1,"count":2,"start":0,"end":1}]',
    b'[0.5,true,{"index":false,"count":2,"start":0,"end":1}]',
    b'[0.5,true,{"index":0,"count":2,"start":0,"end":1.5}]',
    b'[0.5,true,{"index":0,"count":2,"start":0,"end":1,"more":1}]',
    b"0." + b"5" * 300, b"[" * 250,
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_value_of_ours_says_nothing(text: bytes):
    assert decode(text) is None


@given(st.binary(max_size=60))
def test_whatever_is_read_is_a_finite_number_or_nothing(text: bytes):
    read = decode(text)
    assert read is None or decode(encode(read)) == read


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_known_elsewhere(number: float):
    assert decode(encode(number)) is decode(None) is None


# -- several servers, one Redis --------------------------------------------------------------------


def test_what_one_has_scored_the_other_knows(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as first, gateway(server.url) as second:
            mine = await first.score("a", "long b", "c", "a")
            parts = await first.score("a", "long b", max_chunks=5)
            await until(lambda: len(server.ours()) == 5)
            yours = await second.score("a", "long b", "c", "a")
            assert list(map(repr, yours.values)) == list(map(repr, mine.values))
            assert (yours.cut, yours.reused, yours.prompt_tokens) == ([1], 4, 0)
            assert second.asked == [] and second.heard.reuses == [("shared", 3), ("request", 1)]
            assert (await second.score("a", "long b", max_chunks=5)).chunks == parts.chunks
            assert (await second.score("c", "new")).reused == 1
            assert second.asked == [["new"]]  # "c" was in its memory then
            assert second.heard.reuses[-2:] == [("shared", 2), ("cache", 1)]
            assert (await second.score("d")).reused == 0
            await until(lambda: len(server.ours()) == 7)
            raw = await first.score("e", "new", "a", "d")  # fresh, shared, cache, shared
            assert (raw.reused, first.asked[-1]) == (3, ["e"])
            assert first.heard.reuses[-2:] == [("cache", 1), ("shared", 2)]
            with server.client as client:
                assert 0 < client.ttl(next(iter(server.ours()))) <= 7 * 24 * 3600

    run(story())


def test_who_waits_for_another_request_gets_what_redis_knows(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as first, gateway(server.url) as second:
            await first.score("a", "b")
            await until(lambda: len(server.ours()) == 2)
            crowd = [second.score("a", "b"), second.score("a", "b", "c"), second.score("b", "a")]
            assert [raw.reused for raw in await asyncio.gather(*crowd)] == [2, 2, 2]
            assert second.asked == [["c"]]
            assert sum(pairs for how, pairs in second.heard.reuses if how == "shared") == 2

    run(story())


def test_another_model_has_other_scores(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as first, gateway(server.url) as second:
            second.reuse.identify(b"another")
            await first.score("a")
            await until(server.ours)
            assert (await second.score("a")).reused == 0
            await until(lambda: len(server.ours()) == 2)

    run(story())


def test_what_was_asked_of_the_model_before_is_not_shared_as_of_this_one(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as one:

            async def restarted(request: RerankRequest) -> RawScores:
                one.reuse.identify(b"another")
                return await one.fresh(request)

            await one.reuse.score(RerankRequest(["q"], ["old"]), restarted)
            await one.score("new")
            await until(server.ours)
        assert len(server.ours()) == 1

    run(story())


def test_with_the_cache_off_nothing_is_asked_or_told(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url, memory=0) as one:
            assert (await one.score("a", "a")).reused == 0
            one.cache.find = None  # type: ignore[assignment,method-assign]
            await one.score("a")
        assert server.ours() == {} and one.asked == [["a", "a"], ["a"]]

    run(story())


def test_many_keys_are_asked_and_told_in_parts(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as first, gateway(server.url) as second:
            passages = [str(number) for number in range(2500)]
            await first.score(*passages)
            await until(lambda: not first.cache._told)
            assert (await second.score(*passages)).reused == 2500

    run(story())


def test_what_is_told_last_is_still_written_at_the_end(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as one:
            await one.score(*map(str, range(1000)))
        assert len(server.ours()) == 1000

    run(story())


def test_what_does_not_fit_is_dropped():
    cache = SharedCache("redis://127.0.0.1:1")
    cache.put({b"a": 1.0})
    assert not cache._told  # it does not work yet
    cache._is_up = True
    for number in range(3):
        cache.put({bytes([number]) + i.to_bytes(4, "big"): 0.5 for i in range(MOST_TOLD // 2 + 1)})
    assert len(cache._told) == MOST_TOLD


def test_nobody_who_leaves_takes_another_ones_answer_along(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as one:
            kept = {bytes([i]) * 32: i / 3 for i in range(100)}
            one.cache.put(kept)
            await until(lambda: not one.cache._told)
            dice = Random(0)

            async def ask() -> None:
                keys = dice.sample([*kept, *(bytes([i]) * 32 for i in range(200, 220))], 20)
                task = asyncio.create_task(one.cache.find(keys))
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.random() / 500)
                    task.cancel()
                    await asyncio.wait({task})
                if not task.cancelled():
                    assert await task == {key: kept[key] for key in keys if key in kept}

            for _ in range(10):
                await asyncio.gather(*(ask() for _ in range(30)))
            assert one.heard.failures == 0

    run(story())


# -- a Redis that fails ----------------------------------------------------------------------------


def test_what_others_have_written_is_not_believed(server: RedisServer):
    async def story() -> None:
        passages = [str(number) for number in range(len(HOSTILE) + 1)]
        async with gateway(server.url) as first, gateway(server.url) as second:
            await first.score(*passages, "good")
            await until(lambda: not first.cache._told)
            keys = first.reuse._memory._entries
            with server.client as client:
                for key, text in zip(keys, HOSTILE, strict=False):
                    client.set(PREFIX + key, text)
                other = PREFIX + list(keys)[len(HOSTILE)]
                client.delete(other)
                client.rpush(other, "a list")
            raw = await second.score(*passages, "good")
            assert raw.reused == 1 and second.asked == [passages]
            assert second.heard.failures == 0

    run(story())


def test_an_empty_redis_is_filled_again(server: RedisServer):
    async def story() -> None:
        async with gateway(server.url) as first, gateway(server.url) as second:
            await first.score("a")
            await until(server.ours)
            with server.client as client:
                client.flushall()
            assert (await second.score("a")).reused == 0
            await until(server.ours)

    run(story())


def test_a_redis_that_dies_and_comes_back(mortal: RedisServer, caplog: pytest.LogCaptureFixture):
    async def story() -> None:
        async with gateway(mortal.url) as first, gateway(mortal.url) as second:
            await first.score("a")
            await until(mortal.ours)
            mortal.kill()
            for number in range(50):
                await asyncio.gather(first.score(f"b{number}"), second.score("a", f"c{number}"))
            await until(lambda: first.heard.failures > 1 and second.heard.failures > 1)
            assert not first.cache.is_up and not first.cache._told
            mortal.start()
            await until(lambda: first.cache.is_up and second.cache.is_up)
            await first.score("d")
            await until(mortal.ours)
            assert (await second.score("d")).reused == 1

    with caplog.at_level(logging.INFO, "serve"):
        run(story())
    warnings = [record.message for record in caplog.records if record.levelno > logging.INFO]
    assert len(warnings) == 2 and f"shared cache: {mortal.socket} is not used" in warnings[0]
    again = [record.message for record in caplog.records if record.message.endswith("used again")]
    assert len(again) == 2  # once for each of the two


def test_a_redis_that_hangs_costs_one_time_limit(mortal: RedisServer):
    async def story() -> None:
        async with gateway(mortal.url) as first, gateway(mortal.url, limit_s=LIMIT_S) as second:
            await first.score("a")
            await until(mortal.ours)
            mortal.process.send_signal(signal.SIGSTOP)
            failures, started = second.heard.failures, time.monotonic()
            await asyncio.gather(*(second.score("a", f"at once {i}") for i in range(50)))
            await until(lambda: not second.cache.is_up, 3)  # sooner than the package's own limit
            for number in range(150):  # each of which would wait
                await second.score("a", str(number))
            assert time.monotonic() - started < 150 * LIMIT_S
            assert 0 < second.heard.failures - failures < 5
            mortal.process.send_signal(signal.SIGCONT)
            await until(lambda: second.cache.is_up)
            second.reuse._memory.clear()
            await second.score("a", "b", "c")

    run(story())


def test_a_stop_does_not_wait_for_a_redis_that_hangs(mortal: RedisServer):
    async def story() -> None:
        async with gateway(mortal.url, limit_s=60) as one:
            mortal.process.send_signal(signal.SIGSTOP)
            waiting = [asyncio.create_task(one.score(str(number))) for number in range(3)]
            await asyncio.sleep(0.05)
            started = time.monotonic()
        assert time.monotonic() - started < 30
        await asyncio.gather(*waiting)

    run(story())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("maxmemory", "1"), "command not allowed"),  # it is full, and nothing may go
        (("min-replicas-to-write", "1"), "Not enough good replicas"),
    ],
)
def test_a_redis_that_takes_nothing_is_not_used(
    setting: tuple[str, str], words: str, mortal: RedisServer, caplog: pytest.LogCaptureFixture
):
    async def story() -> None:
        with mortal.client as client:
            client.config_set(*setting)
        async with gateway(mortal.url, up=False) as one:
            await until(lambda: one.heard.failures > 1)
            await one.score("a")
            assert not one.cache.is_up

    run(story())
    assert len(caplog.records) == 1 and words in caplog.text


def test_a_password(shared_redis: RedisServer, caplog: pytest.LogCaptureFixture):
    port, word = free_port(), "s3cret/word"
    locked = RedisServer("--requirepass", word, "--port", str(port))

    async def story() -> None:
        for login in ("", ":wrong@"):
            async with gateway(f"redis://{login}127.0.0.1:{port}", up=False) as one:
                await until(lambda one=one: one.heard.failures)
                await one.score("a")
        async with gateway(f"redis://:s3cret%2Fword@127.0.0.1:{port}/1") as first:
            await first.score("a")
        async with gateway(f"unix://:s3cret%2Fword@{locked.socket}?db=1") as second:
            assert (await second.score("a")).reused == 1

    locked.start()
    try:
        run(story())
    finally:
        locked.kill()
        shutil.rmtree(locked.folder)
    assert "Authentication required" in caplog.text and f"127.0.0.1:{port}" in caplog.text
    assert "wrong" not in caplog.text and "s3cret" not in caplog.text


def test_tls(shared_redis: RedisServer, tmp_path: Path):
    made, port = self_signed(tmp_path, "redis"), free_port()
    files = ("--tls-cert-file", str(made.pem), "--tls-key-file", str(made.key))
    secure = RedisServer("--tls-port", str(port), "--tls-auth-clients", "no", *files)

    async def story() -> None:
        async with gateway(f"rediss://127.0.0.1:{port}", up=False) as stranger:
            await until(lambda: stranger.heard.failures)  # who does not trust it
        async with gateway(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made.pem}") as one:
            await one.score("a")
        assert len(secure.ours()) == 1

    secure.start()
    try:
        run(story())
    finally:
        secure.kill()
        shutil.rmtree(secure.folder)


# -- what is shared --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "is_pinned"),
    [
        (Model(model="org/name", names=("m",)), False),
        (Model(model="org/name", names=("m",), revision="main"), False),
        (Model(model="org/name", names=("m",), revision="0123abc"), True),
        (Model(model="/a/folder", names=("m",)), False),
        (Model(model="/a/folder", names=("m",), revision="0123abc"), False),
        (Model(model="/a/folder", names=("m",), sha256={"model.safetensors": "0" * 64}), True),
    ],
)
def test_scores_are_shared_of_weights_that_are_the_same_anywhere(
    model: Model, is_pinned: bool, caplog: pytest.LogCaptureFixture
):
    assert weights.is_pinned(model) == is_pinned
    program = Program(vllm=["vllm"], device="cpu", environment={})
    member = Member(model, [], "", program, shared=SharedCache("redis://127.0.0.1:1"))
    assert (member.pool.reuse._shared is not None) == is_pinned
    assert is_pinned or "its scores are not shared" in caplog.text


def test_while_old_and_new_engines_answer_scores_are_of_neither(tmp_path: Path):
    class Engine:
        def __init__(self, version: str) -> None:
            self._version = version

        async def max_model_len(self) -> int:
            return 512

        async def version(self) -> str:
            return self._version

    async def story() -> None:
        model = Model(model="org/name", names=("m",), revision="0123abc")
        program = Program(vllm=["vllm"], device="cpu", environment={})
        member = Member(model, [], "", program)
        one, other = Engine("1"), Engine("1")
        seen = []
        for engine, version in ((one, "1"), (other, "1"), (one, "2"), (other, "2")):
            engine._version = version
            await member._learn(engine, 1.0, {"HF_HOME": str(tmp_path)})  # type: ignore[arg-type]
            seen.append(member.pool.reuse._identity)
        assert seen[0] == seen[1] and len(set(seen)) == 3

    run(story())


# -- the command line ------------------------------------------------------------------------------

GOOD = (
    "redis://127.0.0.1", "redis://h:6379/0", "redis://:p%40w@[::1]:6379/12", "redis://u:p@h",
    "rediss://h.example.com:6380/0?ssl_ca_certs=/etc/ca.pem", "unix:///run/redis.sock",
    "unix://:p@/run/redis.sock?db=2",
)  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_urls(url: str):
    assert redis_url(url, {REDIS_VARIABLE: "nonsense"}) == url
    assert redis_url(None, {REDIS_VARIABLE: url}) == url
    SharedCache(url)


BAD = (
    "", "h:6379", "http://h:6379", "redis://", "redis://h:x", "redis://h/zero", "redis://h h",
    "redis://:s3cret@", "redis://:s3cret/word@h", "redis://:s3cret#word@h", "unix://run.sock",
)  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_url(url: str):
    with pytest.raises(ConfigError, match=r"^--cache-redis: that is no URL of a Redis") as error:
        redis_url(url, {})
    assert "s3cret" not in str(error.value)
    if url:
        with pytest.raises(ConfigError, match=r"^RERANK_REDIS_URL: that is no URL"):
            redis_url(None, {REDIS_VARIABLE: url})


def test_no_redis_is_asked_for_without_a_url():
    assert redis_url(None, {}) is None and redis_url(None, {REDIS_VARIABLE: ""}) is None


def test_a_url_that_cannot_be_used_is_one_line(tmp_path: Path):
    for url, words in (
        ("redis//h", "error: --cache-redis: that is no URL of a Redis"),
        ("redis://:s3cret@h?colour=red", "error: --cache-redis or RERANK_REDIS_URL: AbstractConn"),
        ("redis://:s3cret@h:99999", "error: --cache-redis or RERANK_REDIS_URL: Port out of range"),
    ):
        command = [sys.executable, "-m", "serve", "up", str(write_config(tmp_path))]
        options = ["--cache-redis", url, "--run-dir", str(tmp_path), "--port", "0"]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "s3cret" not in done.stderr and done.stderr.count("\n") == 1


# -- the whole server ------------------------------------------------------------------------------

PINNED = (
    "sha256:\n  config.json: 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n"
)


def test_two_servers(server: RedisServer, tmp_path: Path):
    work = [tmp_path / "one", tmp_path / "two"]
    for folder in work:
        folder.mkdir()
    config = write_config(tmp_path, PINNED)
    env = {REDIS_VARIABLE: server.url}
    option = ("--cache-redis", server.url)
    with Server(config, work[0], env=env) as one, Server(config, work[1], *option) as two:
        for each in (one, two):
            each.until_ready()
            wait_until(lambda each=each: f"{server.socket} is used" in each.text(), 20, each.text)
        environments = [Path(f"/proc/{pid}/environ") for pid in descendants(one.process.pid)]
        assert environments and not any(server.url.encode() in e.read_bytes() for e in environments)

        for attempt in range(10):  # of a machine so busy that Redis comes too late
            passages = [f"text {attempt}", f"other text {attempt}"]
            body = {"query": "a question", "documents": passages * 2}
            before, end = len(server.ours()), time.monotonic() + 2
            first = one.post("/v2/rerank", body)
            while len(server.ours()) < before + 2 and time.monotonic() < end:
                time.sleep(0.01)
            second = two.post("/v2/rerank", body)
            if second.headers["x-rerank-cached"] == "4":
                break
        assert second.headers["x-rerank-cached"] == "4"
        assert second.json()["results"] == first.json()["results"]
        told = two.get("/metrics").text
        assert 'rerank_reused_pairs_total{how="shared",model="fake"} 2.0' in told
        assert "rerank_shared_cache_failures_total " in told
        stored = b"".join(key + value for key, value in server.ours().items())
        assert b"text" not in stored and b"question" not in stored
    assert one.process.returncode == two.process.returncode == 0


def test_without_a_redis_the_server_serves(tmp_path: Path):
    gone = tmp_path / "gone.sock"
    with Server(write_config(tmp_path, PINNED), tmp_path, "--cache-redis", f"unix://{gone}") as one:
        one.until_ready()
        assert one.rerank("q", ["a", "b"]) == one.rerank("q", ["a", "b"])
        assert one.text().count("is not used until it works") == 1
        told = one.get("/metrics").text
        assert 'rerank_reused_pairs_total{how="shared",model="fake"} 0.0' in told
        assert "rerank_shared_cache_failures_total 0.0" not in told
    assert one.process.returncode == 0


def test_without_a_url_its_package_is_not_even_imported():
    code = "import serve.server, sys; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
