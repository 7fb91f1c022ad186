"""What goes to which engine, in what order, and what becomes of faults: engines of this file's own,
which do as they are told."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.admission import Admission, Ticket
from serve.dispatch import Dispatch
from serve.errors import EngineFault, InvalidRequest, RequestError, Unavailable
from serve.events import Events
from serve.job import Turn
from serve.pace import LEAST_PAIRS
from serve.replica import FIRST_TURNS, TURNS_AT_ONCE, Replica, Slot
from serve.rerank import RawScores, RerankRequest
from serve.spec import Limits
from serve.vllm_log import Progress

DOWN = Unavailable("down")
NONSENSE = EngineFault("nan")


class Engine:
    """Gives a passage that is a number that number. `faults` are raised, one for each request;
    while `gate` is closed, no answer comes."""

    def __init__(self, faults: Sequence[Exception | None] = ()) -> None:
        self.faults = list(faults)
        self.asked: list[list[str]] = []
        self.queries: list[object] = []
        self.priorities: list[int | None] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def score(self, body: bytes, pairs: int) -> RawScores:
        asked = orjson.loads(body)
        self.asked.append(asked["documents"])
        self.queries.append(asked["queries"])
        self.priorities.append(asked.get("priority"))
        assert len(asked["documents"]) == pairs
        fault = self.faults.pop(0) if self.faults else None
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if fault:
            raise fault
        return RawScores([float(text) for text in asked["documents"]], pairs)


class Seen(Events):
    def __init__(self) -> None:
        self.moves: list[str] = []
        self.outcomes: list[tuple[int, str]] = []
        self.waits = 0

    def moved(self, model: str, reason: str) -> None:
        self.moves.append(reason)

    def engine_answered(self, model: str, replica: int, seconds: float, outcome: str) -> None:
        self.outcomes.append((replica, outcome))

    def waited(self, model: str, seconds: float) -> None:
        self.waits += 1


class Site:
    """A dispatch over some engines, with a clock that is set by hand."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.now = 0.0
        self.seen = Seen()
        self.engines = engines
        self.replicas = [
            Replica(engine, index, Progress("ready"))  # type: ignore[arg-type]
            for index, engine in enumerate(engines)
        ]
        self.dispatch = Dispatch("m", self.replicas, events=self.seen, clock=lambda: self.now)
        self.gate = Admission("m", Limits(pairs_in_flight=10**9), self.dispatch.pace, Events())

    async def score(self, numbers: Sequence[int], **options: object) -> Sequence[float]:
        request = RerankRequest(["q"], [str(number) for number in numbers], options=options)
        return (await self.dispatch.score(request, self.ticket(request))).values

    def ticket(self, request: RerankRequest) -> Ticket:
        ticket = Ticket(self.gate)
        ticket.add(len(request.passages), 100 * len(request.passages))
        return ticket

    def is_clean(self) -> bool:
        booked = ((one.pairs, one.extra, one.behind) for one in self.replicas)
        return not any(map(any, booked)) and not self.dispatch._line


def tell(story: Callable[[Site], Awaitable[None]], *faults: Sequence[Exception | None]) -> None:
    """Tells a story of as many engines as there are lists of faults."""

    async def told() -> None:
        site = Site([Engine(some) for some in faults])
        await story(site)
        for _ in range(5):
            await asyncio.sleep(0)
        assert site.is_clean()

    asyncio.run(asyncio.wait_for(told(), 20))


async def soon() -> None:
    """Lets everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- order -----------------------------------------------------------------------------------------


def test_a_small_request_is_one_request_to_the_engine():
    async def story(site: Site) -> None:
        assert await site.score([3, 1, 2]) == [3, 1, 2]
        assert site.engines[0].asked == [["3", "1", "2"]]

    tell(story, [])


def test_a_large_request_goes_in_turns_and_comes_back_whole():
    async def story(site: Site) -> None:
        numbers = list(range(5 * LEAST_PAIRS + 3))
        assert await site.score(numbers) == numbers
        assert [len(asked) for asked in site.engines[0].asked] == [LEAST_PAIRS] * 5 + [3]
        assert site.seen.waits == 1

    tell(story, [])


def test_pair_by_pair_in_turns():
    async def story(site: Site) -> None:
        passages = [str(number) for number in range(40)]
        queries = [f"q{number}" for number in range(40)]
        request = RerankRequest(queries, passages)
        await site.dispatch.score(request, site.ticket(request))
        engine = site.engines[0]
        assert list(chain(*engine.queries)) == queries  # type: ignore[misc]
        assert list(chain(*engine.asked)) == passages

    tell(story, [])


def test_an_engine_is_given_little_more_than_it_works_on():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        large = asyncio.create_task(site.score(list(range(1000))))
        await soon()
        assert sum(map(len, engine.asked)) == TURNS_AT_ONCE * LEAST_PAIRS == site.replicas[0].pairs
        small = asyncio.create_task(site.score([7]))
        await soon()
        engine.gate.set()
        assert await small == [7]
        assert engine.asked.index(["7"]) <= TURNS_AT_ONCE + 1
        assert len(await large) == 1000

    tell(story, [])


def test_who_asks_for_little_is_at_an_engine_at_once_and_first_there():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        large = asyncio.create_task(site.score(list(range(1000))))
        await soon()
        sizes = [4, LEAST_PAIRS - 4, 4]
        small = [asyncio.create_task(site.score([7] * size)) for size in sizes]
        await soon()
        most = (TURNS_AT_ONCE + FIRST_TURNS) * LEAST_PAIRS
        assert site.replicas[0].pairs == most  # and the last one waits
        assert engine.priorities == [0, 1, None, None]  # the lowest first, and none is 0
        engine.gate.set()
        await asyncio.gather(large, *small)
        assert set(engine.priorities[2:]) == {None, 1}

    tell(story, [])


def test_small_requests_alone_are_first_come():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        most = (TURNS_AT_ONCE + FIRST_TURNS) * LEAST_PAIRS // 4
        tasks = [asyncio.create_task(site.score([7] * 4)) for _ in range(most)]
        await soon()
        assert engine.priorities == [None] * most  # vLLM's own order
        engine.gate.set()
        await asyncio.gather(*tasks)

    tell(story, [])


def test_nobody_is_passed_by_more_than_a_turn():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        large = asyncio.create_task(site.score(list(range(2 * LEAST_PAIRS))))
        await soon()
        assert engine.priorities == [0, 1]
        # As if small ones came and were done, one after the other, and the turn behind never were.
        replica = site.replicas[0]
        passing = []
        for _ in range(2 * LEAST_PAIRS // 4):
            passing.append(asyncio.create_task(site.score([7] * 4)))
            await soon()
            replica.extra = 0
        ahead = LEAST_PAIRS // 4
        assert engine.priorities[2:] == [None] * ahead + [1] * (len(passing) - ahead)
        replica.extra = 4 * len(passing)
        engine.gate.set()
        await asyncio.gather(large, *passing)
        assert (replica.behind, replica.passed, replica.extra) == (0, 0, 0)

    tell(story, [])


def test_as_many_pairs_pass_as_were_done_of_those_behind():
    replica = Replica(Engine([]), 0, Progress("ready"))  # type: ignore[arg-type]

    def slot(pairs: int, *, is_ahead: bool) -> Slot:
        turn = Turn(RerankRequest(["q"], ["a"] * pairs), 1)
        made = Slot(turn, replica, is_extra=False, is_ahead=is_ahead)
        made.book(1)
        return made

    slot(5, is_ahead=True)  # passes nobody
    small, large, first = (
        slot(n, is_ahead=ahead) for n, ahead in ((1, False), (16, False), (16, True))
    )
    assert (replica.behind, replica.passed) == (17, 16)
    small.book(-1)
    assert (replica.behind, replica.passed) == (16, 15)
    first.book(-1)
    assert (replica.behind, replica.passed) == (16, 15)
    large.book(-1)
    assert (replica.behind, replica.passed, replica.pairs) == (0, 0, 5)


def test_an_urgent_request_is_before_all_others_at_the_engine():
    async def story(site: Site) -> None:
        await site.score(list(range(LEAST_PAIRS + 1)), priority=-2)
        await site.score([1], priority=3)
        assert site.engines[0].priorities == [-4, -3, 6]

    tell(story, [])


def test_priority_comes_before_fairness():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        full = asyncio.create_task(site.score(list(range(TURNS_AT_ONCE * LEAST_PAIRS))))
        await soon()
        tasks = [asyncio.create_task(site.score([1] * 16, priority=p)) for p in (0, 5, -3)]
        await soon()
        engine.gate.set()
        await asyncio.gather(full, *tasks)
        # The bodies carry the priority too; passages tell who is who by order of arrival.
        assert len(engine.asked) == TURNS_AT_ONCE + 3

    tell(story, [])


def test_the_engine_with_less_to_do_is_asked():
    async def story(site: Site) -> None:
        first, second = site.engines
        first.gate.clear()
        one = asyncio.create_task(site.score([1]))
        await soon()
        assert await site.score([2]) == [2]
        assert await site.score([3]) == [3]
        assert second.asked == [["2"], ["3"]]
        first.gate.set()
        assert await one == [1]

    tell(story, [], [])


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [DOWN, NONSENSE], ids=str)
def test_what_one_engine_fails_another_does(fault: RequestError):
    async def story(site: Site) -> None:
        numbers = list(range(100))
        assert await site.score(numbers) == numbers
        assert site.seen.moves == ["failed"]
        assert (0, fault.code) in site.seen.outcomes

    tell(story, [fault], [])


@pytest.mark.parametrize("fault", [DOWN, NONSENSE], ids=str)
def test_once(fault: RequestError):
    async def story(site: Site) -> None:
        with pytest.raises(type(fault)):
            await site.score([1])
        assert site.seen.moves == ["failed"]
        assert sum(len(engine.asked) for engine in site.engines) == 2

    tell(story, [fault] * 9, [fault] * 9, [fault] * 9)


def test_what_the_engine_refuses_is_asked_once():
    async def story(site: Site) -> None:
        with pytest.raises(InvalidRequest):
            await site.score([1])
        assert site.seen.moves == []
        assert not any(replica.health.needs_a_probe for replica in site.replicas)

    tell(story, [InvalidRequest("no")], [])


def test_with_one_turn_all_of_a_request_fails():
    async def story(site: Site) -> None:
        with pytest.raises(Unavailable):
            await site.score(list(range(200)))

    tell(story, [None, None, DOWN])


def test_an_engine_that_fails_again_and_again_is_left_alone():
    async def story(site: Site) -> None:
        for number in range(10):
            assert await site.score([number]) == [number]
        assert site.replicas[0].is_sick
        assert len(site.engines[0].asked) == 3
        site.replicas[0].health.answered()
        site.engines[0].faults.clear()
        assert await site.score([2]) == [2]
        assert len(site.engines[0].asked) == 4

    tell(story, [DOWN] * 99, [])


@pytest.mark.parametrize("fault", [DOWN, NONSENSE], ids=str)
def test_what_both_fail_is_the_texts_fault(fault: RequestError):
    async def story(site: Site) -> None:
        for _ in range(10):
            with pytest.raises(type(fault)):
                await site.score([1])
        assert not any(replica.is_sick for replica in site.replicas)
        assert all(replica.health.needs_a_probe for replica in site.replicas)

    tell(story, [fault] * 99, [fault] * 99)


@pytest.mark.parametrize("fault", [DOWN, NONSENSE], ids=str)
def test_texts_that_one_engine_fails_do_not_take_it_from_others(fault: RequestError):
    async def story(site: Site) -> None:
        for _ in range(10):
            with pytest.raises(type(fault)):
                await site.score([1])
        assert not site.replicas[0].is_sick and site.replicas[0].health.needs_a_probe
        assert await site.score([2]) == [2]
        assert not site.replicas[0].health.needs_a_probe

    tell(story, [fault] * 10)


@pytest.mark.parametrize("fault", [DOWN, NONSENSE], ids=str)
def test_what_another_can_do_is_the_engines_fault(fault: RequestError):
    async def story(site: Site) -> None:
        for _ in range(5):
            assert await site.score([1]) == [1]
        assert site.replicas[0].is_sick and not site.replicas[1].is_sick

    tell(story, [fault] * 99, [])


def test_a_stuck_engine_loses_its_work_to_another():
    async def story(site: Site) -> None:
        stuck = site.engines[0]
        stuck.gate.clear()
        task = asyncio.create_task(site.score([1]))
        await soon()
        site.now = site.dispatch.pace.slow_after_s(1) - 0.1
        site.dispatch.look()
        await soon()
        assert not task.done()
        site.now += 0.2
        site.dispatch.look()
        assert await task == [1]
        assert stuck.cancelled == 1 and site.seen.moves == ["slow"]
        assert site.replicas[0].health.is_slow and not site.replicas[0].is_sick
        await site.score([2])
        assert len(stuck.asked) == 1  # it gets nothing more as long as another can

    tell(story, [], [])


def test_a_stuck_engine_that_is_alone_keeps_its_work():
    async def story(site: Site) -> None:
        site.engines[0].gate.clear()
        task = asyncio.create_task(site.score([1]))
        await soon()
        site.now = 100
        site.dispatch.look()
        await soon()
        assert not task.done() and site.replicas[0].health.troubled_since == 100
        site.engines[0].gate.set()
        assert await task == [1]
        assert site.replicas[0].health.troubled_since is None

    tell(story, [])


def test_two_stuck_engines_do_not_pass_work_to_and_fro():
    async def story(site: Site) -> None:
        for engine in site.engines:
            engine.gate.clear()
        tasks = [asyncio.create_task(site.score([number])) for number in range(2)]
        for _ in range(5):
            await soon()
            site.now += 10
            site.dispatch.look()
        assert sum(len(engine.asked) for engine in site.engines) <= 4
        for engine in site.engines:
            engine.gate.set()
        assert [await task for task in tasks] == [[0], [1]]

    tell(story, [], [])


def test_an_engine_that_lost_its_work_is_free_for_who_waits():
    async def story(site: Site) -> None:
        failing, busy = site.engines
        failing.gate.clear()
        busy.gate.clear()
        full = [asyncio.create_task(site.score([1] * 16)) for _ in range(6)]  # three for each
        await soon()
        assert [replica.pairs for replica in site.replicas] == [48, 48]
        waiting = asyncio.create_task(site.score([7]))
        await soon()
        failing.gate.set()  # two of its turns fail, and go to the other
        await soon()
        assert await waiting == [7]
        busy.gate.set()
        assert [len(await task) for task in full] == [16] * 6

    tell(story, [DOWN, DOWN], [])


# -- no engine -------------------------------------------------------------------------------------


def test_who_waits_is_told_when_the_last_engine_dies():
    async def story(site: Site) -> None:
        replica, engine = site.replicas[0], site.engines[0]
        engine.gate.clear()
        sizes = (500, 500, 1)  # two of which leave no room for the first turn of the third
        tasks = [asyncio.create_task(site.score([1] * size)) for size in sizes]
        await soon()
        engine.faults = []
        replica.progress = Progress("dead")
        replica.changed()
        for task in tasks:
            with pytest.raises(Unavailable) as error:
                await task
            assert error.value.retry_after
        with pytest.raises(Unavailable, match="not ready"):
            await site.score([1])

    tell(story, [])


def test_who_waits_for_an_engine_that_is_restarted_gets_an_answer():
    async def story(site: Site) -> None:
        replica = site.replicas[0]
        replica.is_leaving = True
        task = asyncio.create_task(site.score(list(range(50))))
        await soon()
        replica.progress = Progress("starting")
        replica.changed()
        await soon()
        assert not task.done() and site.engines[0].asked == []
        replica.is_leaving, replica.progress = False, Progress("ready")
        replica.changed()
        assert len(await task) == 50

    tell(story, [])


# -- who leaves ------------------------------------------------------------------------------------


def test_a_cancelled_request_leaves_nothing():
    async def story(site: Site) -> None:
        engine = site.engines[0]
        engine.gate.clear()
        tasks = [asyncio.create_task(site.score(list(range(100)))) for _ in range(3)]
        await soon()
        asked = len(engine.asked)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        await soon()
        assert engine.cancelled == asked and site.is_clean()
        engine.gate.set()
        assert await site.score([5]) == [5]

    tell(story, [])


FAULTS = st.lists(st.sampled_from([None, None, None, DOWN, NONSENSE]), max_size=12)


@settings(max_examples=150)
@given(
    st.lists(FAULTS, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 30), st.booleans()), max_size=12),
)
def test_whatever_happens_answers_are_right_and_nothing_is_left(
    faults: list[list[Exception | None]], requests: list[tuple[int, int, bool]]
):
    async def story(site: Site) -> None:
        async def ask(size: int, delay: int, leaves: bool) -> None:
            for _ in range(delay):
                await asyncio.sleep(0)
            task = asyncio.create_task(site.score(list(range(size)), priority=delay % 3))
            for _ in range(delay):
                await asyncio.sleep(0)
            if leaves:
                task.cancel()
            try:
                assert await task == list(range(size))
            except (Unavailable, EngineFault):
                pass
            except asyncio.CancelledError:
                assert leaves

        await asyncio.gather(*(ask(*request) for request in requests))

    tell(story, *faults)


def test_a_request_is_not_changed_by_being_cut():
    async def story(site: Site) -> None:
        request = RerankRequest(["q"], [str(n) for n in range(40)], options={"user": "u"})
        kept = request._replace(passages=list(request.passages), options={**request.options})
        await site.dispatch.score(request, site.ticket(request))
        assert request == kept

    tell(story, [])
