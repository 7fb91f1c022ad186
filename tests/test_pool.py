"""Which engine a request goes to, what is too large, and what is asked of the engine."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.admission import check_size
from serve.errors import InvalidRequest, Overloaded, TooLarge
from serve.lengths import Lengths
from serve.pool import Pool
from serve.replica import Replica, pick
from serve.rerank import RawScores, RerankRequest
from serve.spec import Cache, Limits, Model
from serve.vllm_log import Progress
from tests import readers


def replica(phase: str, pairs: int = 0) -> Replica:
    return Replica(engine=None, progress=Progress(phase), pairs=pairs)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["ready", "loading", "dead"]), st.integers(0, 9))))
def test_pick_takes_the_ready_one_with_the_least_to_do(states: list[tuple[str, int]]):
    replicas = [replica(*state) for state in states]
    loads = [pairs for phase, pairs in states if phase == "ready"]
    picked = pick(replicas)
    assert (picked is None) == (not loads)
    if picked:
        assert picked.is_ready and picked.pairs == min(loads)


def test_pick_leaves_alone_who_has_enough():
    busy, idle, slow = replica("ready", 9), replica("ready", 0), replica("ready", 0)
    assert pick([busy], 4, 12) is None and pick([busy], 3, 12) is busy
    assert pick([idle], 100, 12) is idle  # it could never be given otherwise
    slow.health.lags(1)
    assert pick([busy, slow], 1, 12) is busy
    assert pick([busy, slow], 9, 12) is None  # and is waited for
    assert pick([slow]) is slow
    assert pick([busy, slow], but=busy) is slow
    busy.is_leaving = True
    assert pick([busy]) is None


@pytest.mark.parametrize(
    ("queries", "passages", "param"),
    [
        (["q"], ["a"] * 4, "documents"),
        (["q"], ["a", "bbbb"], "documents[1]"),
        (["a", "qqqq"], ["a", "b"], "text_1[1]"),
    ],
)
def test_size(queries: list[str], passages: list[str], param: str):
    request = RerankRequest(queries, passages, fields=("text_1", "documents"))
    with pytest.raises(TooLarge) as error:
        check_size(request, Limits(passages=3, text_chars=3))
    assert error.value.param == param
    check_size(request, Limits(passages=4, text_chars=4))


# -- what is asked of the engine -------------------------------------------------------------------


class Engine:
    """Gives each passage its length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.pairs: list[int] = []  # in flight, as the pool counts them
        self.pool: Pool

    async def score(self, body: bytes, pairs: int) -> RawScores:
        self.bodies.append(orjson.loads(body))
        self.pairs.append(self.pool.admission.pairs)
        return RawScores([float(len(text)) for text in self.bodies[-1]["documents"]], 1)  # type: ignore[attr-defined]

    def close(self) -> None:
        pass


MODEL = Model(model="a/b", names=("m",), vllm={"max-model-len": 64})
LONG = "deep learning " * 100
Story = Callable[[Pool, Engine], Awaitable[None]]


def run(folder: Path | None, story: Story, model: Model = MODEL) -> None:
    """Tells a story of a pool, whose tokenizer is in `folder` or not known."""

    async def told() -> None:
        engine = Engine()
        engine.pool = pool = Pool(model, [Replica(engine, progress=Progress("ready"))])  # type: ignore[arg-type]
        if folder is not None:
            pool.reading.specials = readers.specials(folder)
            pool.reading.lengths = readers.lengths(folder)
        try:
            await story(pool, engine)
            assert (pool.admission.pairs, pool.admission.requests) == (0, 0)
        finally:
            pool.close()

    asyncio.run(told())


def test_parts_are_pairs_in_flight(tokenizer_folders: dict[str, Path]):
    model = replace(MODEL, limits=Limits(pairs_in_flight=3), cache=Cache(0))

    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(["q"], ["a", LONG], max_chunks=50)
        raw = await pool.score(request)  # alone, whatever is allowed
        parts = raw.chunks[1].count
        assert parts > 3 and engine.pairs == [1 + parts]
        assert [len(raw.values), raw.values[0]] == [2, 1.0]
        with pool.admission.admit(1, 1):
            with pytest.raises(Overloaded, match="1 pairs are in flight"):
                await pool.score(request)
            assert pool.admission.pairs == 1
            await pool.score(request._replace(passages=["a", "b"]))

    run(tokenizer_folders["minilm"], story, model)


@pytest.mark.parametrize("max_chunks", [1, 3])
def test_what_may_not_be_cut_is_told_before_the_engine_works(
    tokenizer_folders: dict[str, Path], max_chunks: int
):
    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(
            ["q"], ["a", LONG], may_cut=False, max_chunks=max_chunks, fields=("query", "documents")
        )
        for ask in (pool.score(request), pool.check_whole(pool.check(request))):
            with pytest.raises(InvalidRequest) as error:
                await ask
            assert error.value.param == "documents[1]"
        assert engine.bodies == []
        short = request._replace(passages=["a", "b < c"])
        await pool.check_whole(pool.check(short))
        assert (await pool.score(short)).values == [1.0, 5.0]

    run(tokenizer_folders["minilm"], story)


@pytest.mark.parametrize("max_chunks", [1, 50])
def test_all_are_looked_at_of_which_a_few_are_sent(
    tokenizer_folders: dict[str, Path], max_chunks: int
):
    """As a cascade does: its second model's limit holds for what that is sent."""

    async def story(pool: Pool, engine: Engine) -> None:
        texts = ["a < b", "b", "c" if max_chunks == 1 else LONG]
        request = RerankRequest(["q"], texts, may_cut=False, max_chunks=max_chunks)
        with pytest.raises(TooLarge):
            pool.check(request)
        await pool.check_whole(pool.check(request, 1))

    run(tokenizer_folders["minilm"], story, replace(MODEL, limits=Limits(passages=2)))


def test_without_a_tokenizer_the_engine_is_told_to_refuse():
    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(["q"], ["a < b"])
        await pool.score(request)
        await pool.score(request._replace(may_cut=False))
        sent = [body.get("truncate_prompt_tokens") for body in engine.bodies]
        assert sent == [-1, None]
        assert (await pool.score(request._replace(max_chunks=9))).values == [5.0]
        with pytest.raises(InvalidRequest, match="tokenizer is not known"):
            await pool.score(request._replace(passages=[LONG], max_chunks=9))

    run(None, story)


def test_short_passages_are_never_tokenized(tokenizer_folders: dict[str, Path]):
    folder = tokenizer_folders["minilm"]

    class Untouched(Lengths):
        def count(self, texts: object) -> list[int]:
            raise AssertionError("tokenized")

        offsets = count  # type: ignore[assignment]

    async def story(pool: Pool, engine: Engine) -> None:
        pool.reading.lengths = Lengths(readers.tokenizer(folder), is_pair=True)
        pool.reading.lengths.__class__ = Untouched
        request = RerankRequest(["what is 深度学习"], ["a short passage", "短い文"] * 5_000)
        for options in ({"max_chunks": 10}, {"may_cut": False}):
            assert len((await pool.score(request._replace(**options))).values) == 10_000

    run(folder, story)


@pytest.mark.parametrize("options", [{"max_chunks": 10**6}, {"may_cut": False}], ids=str)
def test_splitting_and_counting_can_be_ended(
    tokenizer_folders: dict[str, Path], options: dict[str, int]
):
    async def story(pool: Pool, engine: Engine) -> None:
        request = RerankRequest(["q"], [LONG * 700] * 50, **options)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.score(request), 0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.check_whole(pool.check(request)), 0.05)
        assert engine.bodies == []

    run(tokenizer_folders["minilm"], story, replace(MODEL, limits=Limits(passages=10**6)))
