"""What is not scored again: and that nobody is given another pair's score."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import EngineFault, InvalidRequest, Overloaded
from serve.events import Events
from serve.pool import Pool
from serve.rerank import Chunk, RawScores, RerankRequest
from serve.reuse import ENTRY_BYTES, Memory, Reuse, keys_of
from serve.spec import Cache, Limits, Model
from tests.harness import Server, wait_until, write_config
from tests.readers import sigmoid
from tests.test_pool import LONG, MODEL, Engine
from tests.test_pool import run as in_pool

MIB = 1024 * 1024


def value(query: str, passage: str) -> float:
    return len(query) * 1000.0 + hash(passage) % 997


class Scorer:
    """What a request's pairs are scored by; `gate` holds it up, `fails` so often."""

    def __init__(self, fails: int = 0) -> None:
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = fails

    async def __call__(self, request: RerankRequest) -> RawScores:
        self.asked.append(list(request.passages))
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise EngineFault("no")
        queries = list(request.queries) * (
            len(request.passages) if len(request.queries) == 1 else 1
        )
        values = [value(q, p) for q, p in zip(queries, request.passages, strict=True)]
        return RawScores(values, 10 * len(values))


class Heard(Events):
    def __init__(self) -> None:
        self.reuses: list[tuple[str, int]] = []

    def reused(self, model: str, how: str, pairs: int) -> None:
        self.reuses.append((how, pairs))


def run(work: Awaitable[Any]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(within())


def right(request: RerankRequest) -> list[float]:
    return [value(request.queries[0], passage) for passage in request.passages]


def asking(*passages: str, query: str = "q", **more: Any) -> RerankRequest:
    return RerankRequest([query], list(passages), **more)


# -- keys ------------------------------------------------------------------------------------------

BASE = asking("a", options={"truncate_prompt_tokens": -1, "priority": 1, "user": "me"})


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(queries=["Q"]),
        BASE._replace(queries=[""], passages=["qa"]),
        BASE._replace(queries=["qa"], passages=[""]),
        BASE._replace(passages=["A"]),
        BASE._replace(may_cut=False),
        BASE._replace(max_chunks=2),
        BASE._replace(options={"truncate_prompt_tokens": 5}),
        BASE._replace(options={**BASE.options, "cache_salt": "s"}),
        BASE._replace(options={**BASE.options, "instruction": ""}),
    ],
)
def test_what_a_score_depends_on_is_in_its_key(other: RerankRequest):
    assert keys_of(b"m", BASE) != keys_of(b"m", other)


@pytest.mark.parametrize(
    "same",
    [
        BASE._replace(options={"user": "you", "priority": 9, "truncate_prompt_tokens": -1}),
        BASE._replace(raw=True, top_n=1, echo=False, is_ranked=True, request_id="x", model="m"),
        BASE._replace(fields=("text_1", "text_2")),
    ],
)
def test_what_no_score_depends_on_is_not(same: RerankRequest):
    assert keys_of(b"m", BASE) == keys_of(b"m", same)
    assert keys_of(b"m", BASE) != keys_of(b"n", same)


def test_pair_by_pair_is_the_same_as_one_query():
    pairs = RerankRequest(["q", "r"], ["a", "b"])
    assert keys_of(b"", pairs) == [
        *keys_of(b"", asking("a")),
        *keys_of(b"", asking("b", query="r")),
    ]


# -- the memory ------------------------------------------------------------------------------------


def test_those_asked_for_longest_ago_make_room():
    memory = Memory(3 * ENTRY_BYTES)
    memory.put({b"a": 1.0, b"b": 2.0, b"c": 3.0})
    assert memory.find([b"a", b"x"]) == {b"a": 1.0}
    memory.put({b"d": 4.0})
    assert memory.find([b"a", b"b", b"c", b"d"]) == {b"a": 1.0, b"c": 3.0, b"d": 4.0}
    memory.put({bytes([i]): 0.5 for i in range(9)})
    assert len(memory) == 3
    large = Memory(160 * ENTRY_BYTES)
    for begin in (0, 100, 250):  # room for all of each
        keys = [bytes([i % 256, i // 256]) for i in range(begin, begin + 150)]
        large.put(dict.fromkeys(keys, 0.5))
        assert len(large.find(keys)) == 150 and len(large) <= 160
    Memory(0).put({b"a": 1.0})


def test_an_entry_takes_no_more_memory_than_is_counted():
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory, count = Memory(1 << 30), 50_000
    for i in range(count):
        memory.put({i.to_bytes(32, "big"): i / 3})
    each = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    assert ENTRY_BYTES / 2 < each <= ENTRY_BYTES, each


# -- requests --------------------------------------------------------------------------------------


def test_what_is_known_is_not_asked_again():
    async def story() -> None:
        heard, scorer = Heard(), Scorer()
        reuse = Reuse("m", MIB, heard)
        first = await reuse.score(asking("a", "b"), scorer)
        assert (first.values, first.reused, first.prompt_tokens) == (right(asking("a", "b")), 0, 20)
        more = asking("b", "c", "a")
        raw = await reuse.score(more, scorer)
        assert (raw.values, raw.reused, raw.prompt_tokens) == (right(more), 2, 10)
        again = await reuse.score(more, scorer)
        assert (again.values, again.reused, again.prompt_tokens) == (right(more), 3, 0)
        assert scorer.asked == [["a", "b"], ["c"]]
        assert heard.reuses == [("cache", 2), ("cache", 3)]
        reuse.identify(b"another model")
        assert (await reuse.score(more, scorer)).reused == 0

    run(story())


def test_what_stands_twice_is_scored_once():
    async def story() -> None:
        heard, scorer = Heard(), Scorer()
        request = asking("a", "b", "a", "a", "b")
        raw = await Reuse("m", MIB, heard).score(request, scorer)
        assert (raw.values, raw.reused) == (right(request), 3)
        assert sorted(scorer.asked[0]) == ["a", "b"] and heard.reuses == [("request", 3)]
        pairs = RerankRequest(["q", "rr", "q"], ["a", "a", "a"])
        raw = await Reuse("m", MIB).score(pairs, scorer)
        assert raw.values == [value("q", "a"), value("rr", "a"), value("q", "a")]

    run(story())


def test_off_every_pair_is_scored():
    async def story() -> None:
        scorer, reuse = Scorer(), Reuse("m", 0)
        request = asking("a", "a")
        for _ in range(2):
            assert (await reuse.score(request, scorer)).reused == 0
        assert scorer.asked == [["a", "a"]] * 2 and reuse.pairs == 0

    run(story())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_being_scored_is_waited_for():
    async def story() -> None:
        heard, scorer = Heard(), Scorer()
        reuse = Reuse("m", MIB, heard)
        scorer.gate.clear()
        crowd = [asyncio.create_task(reuse.score(asking("a", "b"), scorer)) for _ in range(5)]
        more = asyncio.create_task(reuse.score(asking("b", "c", "d"), scorer))
        await settled()
        scorer.gate.set()
        for task in crowd:
            assert (await task).values == right(asking("a", "b"))
        assert (await more).values == right(asking("b", "c", "d"))
        assert scorer.asked == [["a", "b"], ["c", "d"]]
        assert sorted(heard.reuses) == [("flight", 1), *[("flight", 2)] * 4]

    run(story())


@pytest.mark.parametrize(
    ("large", "small"),
    [
        (asking("a", "b", "c"), asking("a")),
        (asking("a", options={"priority": 5}), asking("a", options={"priority": 1})),
    ],
)
def test_nobody_waits_for_who_will_be_done_later(large: RerankRequest, small: RerankRequest):
    async def story() -> None:
        slow, quick, reuse = Scorer(), Scorer(), Reuse("m", MIB)
        slow.gate.clear()
        task = asyncio.create_task(reuse.score(large, slow))
        await settled()
        assert (await reuse.score(small, quick)).values == right(small)
        slow.gate.set()
        assert (await task).values == right(large)
        assert not reuse._claims

    run(story())


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_those_who_wait_go_on_without_who_fails(how: str):
    async def story() -> None:
        first, others, reuse = Scorer(fails=1), Scorer(), Reuse("m", MIB)
        first.gate.clear()
        task = asyncio.create_task(reuse.score(asking("a", "b"), first))
        await settled()
        waiting = [asyncio.create_task(reuse.score(asking("a", "b"), others)) for _ in range(3)]
        await settled()
        assert others.asked == []
        if how == "fails":
            first.gate.set()
        else:
            task.cancel()
        for one in waiting:
            assert (await one).values == right(asking("a", "b"))
        assert len(others.asked) == 3  # at once: nobody waits a second time
        with pytest.raises(EngineFault if how == "fails" else asyncio.CancelledError):
            await task
        assert not reuse._claims

    run(story())


def test_who_waits_can_be_cancelled_and_takes_nothing_with_it():
    async def story() -> None:
        scorer, reuse = Scorer(), Reuse("m", MIB)
        scorer.gate.clear()
        first, second, third = (
            asyncio.create_task(reuse.score(asking("a"), scorer)) for _ in range(3)
        )
        await settled()
        second.cancel()
        await asyncio.wait({second})
        scorer.gate.set()
        assert (await first).values == (await third).values == right(asking("a"))
        assert second.cancelled() and scorer.asked == [["a"]]

    run(story())


passages = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(passages, st.integers(0, 2), st.booleans(), st.booleans()), max_size=12),
    st.sampled_from([2 * ENTRY_BYTES, MIB]),
)
def test_whatever_happens_every_score_is_its_pairs(
    asked: Sequence[tuple[list[str], int, bool, bool]], memory: int
):
    async def story() -> None:
        reuse = Reuse("m", memory)
        tasks = []
        for texts, priority, fails, leaves in asked:
            request = asking(*texts, options={"priority": priority})
            task = asyncio.create_task(reuse.score(request, Scorer(fails=fails)))
            tasks.append((request, task, fails, leaves))
            await asyncio.sleep(0)
            if leaves:
                task.cancel()
        await asyncio.gather(*(task for _, task, _, _ in tasks), return_exceptions=True)
        for request, task, fails, leaves in tasks:
            if task.cancelled():
                assert leaves
            elif task.exception():
                assert fails
            else:
                assert task.result().values == right(request)
        assert not reuse._claims and reuse.pairs <= memory // ENTRY_BYTES

    run(story())


# -- in a pool -------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_chunks", [1, 50])
def test_a_known_pair_is_told_as_it_was(tokenizer_folders: dict[str, Path], max_chunks: int):
    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(["q"], ["a", LONG, "b"], max_chunks=max_chunks)
        first = await pool.score(request)
        sent = len(engine.bodies)
        other = request._replace(passages=["b", LONG, "a", LONG])
        second = await pool.score(other)
        assert len(engine.bodies) == sent and second.reused == 4
        assert second.values == [first.values[i] for i in (2, 1, 0, 1)]
        if max_chunks == 1:
            assert (first.cut, second.cut) == ([1], [1, 3])
        else:
            assert isinstance(first.chunks[1], Chunk)
            assert second.chunks == {1: first.chunks[1], 3: first.chunks[1]}

    in_pool(tokenizer_folders["minilm"], story, MODEL)


def test_an_error_names_the_place_in_the_whole_request(tokenizer_folders: dict[str, Path]):
    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(["q"], ["a", "b"], may_cut=False, fields=("query", "documents"))
        await pool.score(request)
        assert (await pool.score(request)).reused == 2
        with pytest.raises(InvalidRequest) as error:
            await pool.score(request._replace(passages=["a", "b", "a", LONG]))
        assert error.value.param == "documents[3]"

    in_pool(tokenizer_folders["minilm"], story, MODEL)


def test_who_needs_no_engine_needs_no_room_and_pays_all_the_same(
    tokenizer_folders: dict[str, Path],
):
    model = replace(MODEL, limits=Limits(pairs_in_flight=2), cache=Cache(1))

    async def story(pool: Pool, engine: Engine) -> None:
        paid: list[str] = []

        async def pay() -> None:
            paid.append("once")

        request = RerankRequest(["q"], ["a", "bb"])
        await pool.score(request, admitted=pay)
        with pool.admission.admit(2, 9):
            assert (await pool.score(request, admitted=pay)).reused == 2
            with pytest.raises(Overloaded):
                await pool.score(request._replace(passages=["a", "ccc"]), admitted=pay)
        assert paid == ["once"] * 2

    in_pool(tokenizer_folders["minilm"], story, model)


# -- the whole server ------------------------------------------------------------------------------


def test_hits_are_told_in_a_header_and_in_metrics(tmp_path: Path):
    config = write_config(tmp_path, "cache: {memory_mib: 1}\n")
    with Server(config, tmp_path) as server:
        server.until_ready()
        simple = {"query": "q", "passages": ["one", "two", "one"]}
        first = requests.post(server.url + "/rerank", json=simple, timeout=30)
        assert first.headers["x-rerank-cached"] == "1"
        documents = {"query": "q", "documents": ["two", "one", "three"]}
        second = requests.post(server.url + "/v2/rerank", json=documents, timeout=30)
        assert second.headers["x-rerank-cached"] == "2"
        by_index = {item["index"]: item for item in second.json()["results"]}
        assert by_index[0]["relevance_score"] == first.json()[1]  # to the last bit
        assert by_index[1]["relevance_score"] == first.json()[0]
        assert by_index[0]["relevance_score"] == sigmoid(by_index[0]["raw_score"])
        both = {"queries": ["q", "r"], "documents": ["three", "three"]}
        third = requests.post(server.url + "/score", json=both, timeout=30)
        assert third.headers["x-rerank-cached"] == "1"
        fresh = requests.post(server.url + "/rerank", json={**simple, "query": "new"}, timeout=30)
        assert fresh.headers["x-rerank-cached"] == "1"  # of the two alike
        told = requests.get(server.url + "/metrics", timeout=30).text
        for line in (
            'rerank_reused_pairs_total{how="cache",model="fake"} 3.0',
            'rerank_reused_pairs_total{how="request",model="fake"} 2.0',
            'rerank_reused_pairs_total{how="flight",model="fake"} 0.0',
            'rerank_cached_pairs{model="fake"} 6.0',
        ):
            assert line in told, line


def test_one_line_turns_it_off(tmp_path: Path):
    with Server(write_config(tmp_path, "cache: 0\n"), tmp_path) as server:
        server.until_ready()
        for _ in range(2):
            body = {"query": "q", "passages": ["one", "one"]}
            answer = requests.post(server.url + "/rerank", json=body, timeout=30)
            assert answer.ok and "x-rerank-cached" not in answer.headers


def test_a_restart_of_the_engines_with_other_files_forgets(tmp_path: Path):
    with Server(write_config(tmp_path), tmp_path) as server:
        server.until_ready()

        def cached() -> str | None:
            body = {"query": "q", "passages": ["one"]}
            answer = requests.post(server.url + "/rerank", json=body, timeout=30)
            return answer.headers.get("x-rerank-cached")

        assert [cached(), cached()] == [None, "1"]
        (tmp_path / "weights" / "model.safetensors").write_text("others")
        server.process.send_signal(1)  # SIGHUP
        wait_until(lambda: cached() is None, 30)
        assert cached() == "1"


def test_the_default_is_on():
    assert Model(model="m", names=("m",)).cache.memory_mib > 0
