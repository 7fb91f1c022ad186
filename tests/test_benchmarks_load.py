"""The load generator: what it asks, when, and that no stall of a server is left out."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice, pairwise

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.arrivals import even, poisson
from benchmarks.load.generator import Asker, closed_loop, open_loop, side_by_side
from benchmarks.load.latency import OK, TIMEOUT, UNSENT, Run, Shot, classes, merged, percentile
from benchmarks.load.results import Load, charts, notes, rows
from benchmarks.load.targets import DIALECTS, Target
from benchmarks.load.texts import Question, doubled, popular, sizes, unique

RATES = st.floats(1, 500)
SPANS = st.floats(0.01, 5)


@pytest.mark.parametrize(
    ("text", "least", "largest"),
    [("4", 4, 4), ("10-100", 10, 100), ("4:0.9,1000:0.1", 4, 1000), ("lognormal:60:0.6", 1, 662)],
)
def test_sizes_stay_within_what_was_written(text: str, least: int, largest: int):
    drawn = sizes(text)
    source = random.Random(0)
    found = [drawn.draw(source) for _ in range(5000)]
    assert drawn.largest == largest
    assert least <= min(found) and max(found) <= largest


def test_sizes_are_as_frequent_as_their_weights():
    source = random.Random(1)
    small = sum(sizes("4:0.9,1000:0.1").draw(source) == 4 for _ in range(10_000))
    assert 8_800 < small < 9_200
    median = sorted(sizes("lognormal:60:0.6").draw(source) for _ in range(10_000))[5_000]
    assert 57 <= median <= 63


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "x", "1e3", "9-3", "0-4", "4-", "1-2-3", "2000000"),
        *("4:0", "4:1,", "4:a", "4:1 ,5:1"),
        *("lognormal:60", "lognormal:0:1", "lognormal:60:9", "lognormal:999999:3"),
    ],
)
def test_what_is_no_size_is_refused_in_words(text: str):
    with pytest.raises(ValueError, match=r"is none of|possible|smaller|weight|median"):
        sizes(text)


def test_no_text_is_sent_twice_and_a_seed_repeats_all():
    def asked(seed: str) -> list[Question]:
        return list(islice(unique(sizes("1-9"), sizes("1-30"), seed), 200))

    texts = [each for one in asked("a") + asked("b") for each in (one.query, *one.passages)]
    assert len(set(texts)) == len(texts)
    assert asked("a") == asked("a")
    assert {len(each.split()) for one in asked("a") for each in one.passages} == {*range(1, 31)}


def test_doubled_questions_have_each_passage_twice():
    one = next(doubled(unique(sizes("3"), sizes("5"), "x")))
    assert sorted(Counter(one.passages).values()) == [2, 2, 2]


@pytest.mark.parametrize(("exponent", "least", "most"), [(0.0, 0.0, 0.35), (1.2, 0.5, 1.0)])
def test_popular_pairs_repeat_as_their_exponent_says(exponent: float, least: float, most: float):
    stream = popular(sizes("1-4"), sizes("5"), distinct=400, exponent=exponent, seed="s")
    asked = list(islice(stream, 2000))
    for one in asked:
        assert len(set(one.passages)) == len(one.passages)
    pairs = Counter((one.query, each) for one in asked for each in one.passages)
    assert len(pairs) <= 400
    of_the_top_tenth = sum(n for _, n in pairs.most_common(40)) / pairs.total()
    assert least < of_the_top_tenth < most


def test_too_few_pairs_for_a_request_are_refused_at_once():
    with pytest.raises(ValueError, match="10 pairs are too few for requests of 11"):
        popular(sizes("11"), sizes("5"), distinct=10, exponent=1.0, seed="s")


@given(RATES, SPANS)
def test_even_arrivals_are_as_far_apart_as_the_rate_says(rate: float, seconds: float):
    moments = even(rate, seconds)
    assert len(moments) == math.ceil(rate * seconds)
    assert all(math.isclose(b - a, 1 / rate, abs_tol=1e-9) for a, b in pairwise(moments))


@given(RATES, SPANS, st.text(max_size=4))
def test_poisson_arrivals_are_in_order_within_the_run_and_repeat(
    rate: float, seconds: float, seed: str
):
    moments = poisson(rate, seconds, seed)
    assert list(moments) == sorted(moments) == poisson(rate, seconds, seed)
    assert all(0 < moment < seconds for moment in moments)


def test_poisson_arrivals_come_at_the_rate_and_by_chance():
    moments = poisson(100, 100, "s")
    gaps = [b - a for a, b in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert 0.0095 < mean < 0.0105
    # The deviation of an exponential distribution is its mean.
    assert 0.9 < math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean < 1.1


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_the_share_stayed_within(values: list[float], share: float):
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    within = sum(value <= found for value in ordered)
    below = sum(value < found for value in ordered)
    assert within >= share * len(ordered) - 1e-9
    assert below <= share * len(ordered) + 1e-9
    assert percentile(ordered, 1) == ordered[-1] and percentile(ordered, 0) == ordered[0]


def shot(latency_s: float, passages: int = 1, outcome: str = OK, due: float = 0.0) -> Shot:
    return Shot(due, due, due + latency_s, passages, outcome)


def test_failures_are_in_no_rate_and_no_percentile():
    run = Run(
        [shot(0.1, 4), shot(0.2, 4), shot(9.0, 4, TIMEOUT), shot(0, 4, "429 overloaded")], 2.0
    )
    assert (run.rate, run.pair_rate, run.quantile(1)) == (1.0, 4.0, 200.0)
    assert run.failures == {TIMEOUT: 1, "429 overloaded": 1}
    told = "\n".join(notes([Load(run, rate=2.0)]))
    assert "2 of 4 requests failed" in told and "1 x 429 overloaded" in told
    assert math.isnan(run.of(lambda each: each.outcome == TIMEOUT).quantile(0.5))
    assert merged([run, run]).rate == run.rate


def test_requests_are_told_apart_by_their_passages():
    few = Run([shot(0.01, 4), shot(0.01, 4), shot(1.0, 1000)], 1.0)
    assert {name: len(each.shots) for name, each in classes(few).items()} == {"4": 2, "1000": 1}
    many = Run([shot(0.01, size) for size in (*range(5, 15), 300)], 1.0)
    assert {name: len(each.shots) for name, each in classes(many).items()} == {
        "1-9": 5,
        "10-99": 5,
        "100-999": 1,
    }
    assert classes(Run([shot(0.01)], 1.0)) == {}
    table = rows([Load(few, clients=2)])
    assert [(row["passages"], row["requests"], row["max ms"]) for row in table] == [
        ("all", 3, 1000.0),
        ("4", 2, 10.0),
        ("1000", 1, 1000.0),
    ]
    assert {chart.title for chart in charts([Load(few, clients=2)])} == {
        "Latency by percentile",
        "Latency over time",
    }


class Little:
    """A server that gives every passage 0.5, and that stalls once for everybody."""

    def __init__(self, stalls_at: int = 0, stall_s: float = 0.0) -> None:
        self.stalls_at, self.stall_s = stalls_at, stall_s
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()
        self.began = self.ended = math.inf

    async def answer(self, request: web.Request) -> web.Response:
        passages = (await request.json())["passages"]
        self.asked += 1
        if self.asked == self.stalls_at:
            self.began = time.perf_counter()
            self.free.clear()
            asyncio.get_running_loop().call_later(self.stall_s, self._end)
        await self.free.wait()
        return web.json_response([0.5] * len(passages))

    def _end(self) -> None:
        self.ended = time.perf_counter()
        self.free.set()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Target]:
        app = web.Application()
        app.router.add_post("/rerank", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            yield Target("little", f"http://{host}:{port}", dialect=DIALECTS["simple"])
        finally:
            await runner.cleanup()


def small(seed: str = "s"):
    return unique(sizes("2"), sizes("3"), seed)


async def stalled(
    open_rate: float | None, in_flight: int = 1000
) -> tuple[Sequence[Shot], Little, float]:
    """The shots of a run over a server that stalls, and when the run began."""
    little = Little(stalls_at=5, stall_s=0.4)
    async with little.at_work() as target, Asker(target) as asker:
        origin = time.perf_counter() - asker.now()
        if open_rate:
            run = await open_loop(asker, small(), even(open_rate, 0.8), in_flight)
        else:
            run = await closed_loop(asker, small(), clients=1, seconds=0.8)
        return run.shots, little, origin


def test_a_stall_is_in_the_latencies_of_all_requests_that_were_due_meanwhile():
    shots, little, origin = asyncio.run(stalled(50))
    assert len(shots) == 40 and {each.outcome for each in shots} == {OK}
    began, ended = little.began - origin, little.ended - origin
    meanwhile = [each for each in shots if began < each.due < ended]
    assert len(meanwhile) >= 15  # 20, but for one at either end
    for each in meanwhile:
        assert each.latency_s >= ended - each.due
    waits = sorted(each.latency_s for each in meanwhile)
    assert waits[-1] > 0.35 and waits[len(waits) // 2] > 0.15


def test_one_client_of_a_closed_loop_meets_a_stall_once():
    shots, little, origin = asyncio.run(stalled(None))
    ended = little.ended - origin
    assert sum(each.due < ended <= each.end for each in shots) == 1


def test_a_bound_on_requests_in_flight_is_told_and_holds_no_arrival_back():
    shots, little, _ = asyncio.run(stalled(50, in_flight=3))
    assert len(shots) == 40
    unsent = [each for each in shots if each.outcome == UNSENT]
    assert len(unsent) >= 10 and little.asked == 40 - len(unsent)
    told = "\n".join(notes([Load(Run(shots, 0.8), rate=50)]))
    assert f"{len(unsent)} requests were not sent" in told


def test_a_client_gives_up_after_its_time():
    async def run() -> Shot:
        little = Little(stalls_at=1, stall_s=0.5)
        async with little.at_work() as target, Asker(target, timeout_s=0.1) as asker:
            question = next(small())
            return await asker.ask(question, asker.body(question))

    assert asyncio.run(run()).outcome == TIMEOUT


def test_targets_take_turns_with_texts_of_their_own():
    async def run():
        a, b = Little(), Little()
        seeds = []

        def make(seed: str):
            seeds.append(seed)
            return islice(small(seed), 3)

        async with a.at_work() as first, b.at_work() as second:
            two = (
                Target("a", first.url, dialect=first.dialect),
                Target("b", second.url, dialect=second.dialect),
            )
            runs = await side_by_side(two, make, clients=2, seconds=5, rounds=2)
        return runs, seeds, (a.asked, b.asked)

    runs, seeds, asked = asyncio.run(run())
    assert {name: [len(one.good) for one in each] for name, each in runs.items()} == {
        "a": [3, 3],
        "b": [3, 3],
    }
    assert len(set(seeds)) == 6 and asked == (9, 9)  # with the warm-up's
