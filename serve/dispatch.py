"""Gives a model's work to its engines, turn by turn; what one of them fails goes to another.

An engine is given little more than it works on: what waits, waits here, where it can be put in a
fair order, be given to whichever engine is free first, and be forgotten when its client is gone.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from serve.admission import Ticket
from serve.engine import RETRY_AFTER_S, encode
from serve.errors import EngineFault, RequestError, Unavailable
from serve.events import Events
from serve.interrupt import Interrupt
from serve.job import Job, join
from serve.line import Line
from serve.pace import Pace
from serve.replica import Replica, Slot, pick, room_at, unavailable
from serve.rerank import RawScores, RerankRequest

LOOK_S = 0.25


class _TooSlow(Unavailable):
    """Another engine is asked in place of the one that has not answered."""


Waiter = asyncio.Future[Slot]


class Dispatch:
    """The line in front of one model's replicas. `clock` is in seconds, the supervisor's."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica],
        *,
        events: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = Pace()
        self._name = name
        self._replicas = replicas
        self._events = events or Events()
        self._clock = clock
        self._line: Line[Waiter] = Line()
        self._jobs: dict[Waiter, Job] = {}
        self._slots: set[Slot] = set()  # at engines
        self._busy_since = 0.0
        for replica in replicas:
            replica.changed = self._on_change

    async def score(self, request: RerankRequest, ticket: Ticket) -> RawScores:
        """The raw values of a request whose texts are ready for the engine, which are `ticket`'s.
        Raises RequestError.

        When it is cancelled, nothing of it is left, neither here nor at an engine.
        """
        job = Job(request, ticket.size)
        asked = self._clock()
        try:
            slot = await self._slot(job)
        finally:
            self._events.waited(self._name, self._clock() - asked)
        if not job.left:
            return await self._serve(slot)  # mostly: no task is needed
        tasks: list[asyncio.Task[RawScores]] = []
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    task = group.create_task(self._serve(slot))
                    # One that is cancelled before it begins would never give its slot back.
                    task.add_done_callback(partial(self._on_done, slot, ticket))
                    tasks.append(task)
                    if not job.left:
                        break
                    slot = await self._slot(job)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return join([task.result() for task in tasks])

    # -- the line --------------------------------------------------------------------------------

    async def _slot(self, job: Job) -> Slot:
        """The job's next turn, with an engine that is free for it. Raises Unavailable."""
        if not self._line and (slot := self._fill(job)):
            return slot
        if not any(replica.is_expected for replica in self._replicas):
            raise unavailable(self._name, self._replicas)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._jobs[waiter] = job
        self._line.add(waiter, priority=job.priority, is_new=job.is_new)
        self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())
            raise
        finally:
            self._line.discard(waiter)
            self._jobs.pop(waiter, None)

    def _fill(self, job: Job) -> Slot | None:
        """A slot with the job's next turn, if an engine is free for it."""
        open_ = sum(replica.is_open for replica in self._replicas)
        pairs, size = self.pace.turn(open_)
        own = min(pairs, job.left)
        replica, is_extra = room_at(self._replicas, own, pairs, is_new=job.is_new)
        if replica is None:
            return None
        # A turn's worth may pass those that are behind, then only as many as are done of those.
        is_ahead = job.is_new and replica.passed < pairs
        turn = job.take(pairs, size, is_ahead=is_ahead)
        slot = Slot(turn, replica, is_extra=is_extra, is_ahead=is_ahead)
        self._hold(slot)
        return slot

    def _pump(self) -> None:
        """Gives turns to those who wait, as long as an engine is free."""
        while any(self._give(waiter) for waiter in self._line.candidates()):
            pass

    def _give(self, waiter: Waiter) -> bool:
        """Gives one its turn, if an engine is free for it; whether it waits no more."""
        if waiter.done():  # cancelled a moment ago
            self._line.discard(waiter)
            return True
        slot = self._fill(self._jobs[waiter])
        if slot is None:
            return False
        self._line.take(waiter)
        waiter.set_result(slot)
        return True

    def _on_change(self) -> None:
        """A replica may take work again, or will not: whom nobody can answer is told so."""
        if any(replica.is_expected for replica in self._replicas):
            return self._pump()
        for waiter in self._line.clear():
            if not waiter.done():
                waiter.set_exception(unavailable(self._name, self._replicas))

    def _hold(self, slot: Slot) -> None:
        if not self._slots:
            self._busy_since = self._clock()
        slot.is_held = True
        slot.book(1)
        self._slots.add(slot)

    def _release(self, slot: Slot) -> None:
        """Gives a slot back, once."""
        if slot.is_held:
            slot.is_held = False
            slot.book(-1)
            self._slots.discard(slot)
            self._pump()

    def _on_done(self, slot: Slot, ticket: Ticket, task: "asyncio.Task[RawScores]") -> None:
        self._release(slot)
        ticket.scored(slot.turn.pairs)

    # -- the engines -----------------------------------------------------------------------------

    async def _serve(self, slot: Slot) -> RawScores:
        """The values of a turn, of its replica or, where that fails, of another: once."""
        try:
            return await self._ask(slot)
        except (Unavailable, EngineFault) as error:
            first, other = slot.replica, pick(self._replicas, but=slot.replica)
            if other is None:
                first.health.doubts()
                raise
            self._events.moved(self._name, "slow" if isinstance(error, _TooSlow) else "failed")
            self._move(slot, other)
            try:
                raw = await self._ask(slot)
            except (Unavailable, EngineFault):  # so it is the texts' fault, or that of both
                first.health.doubts()
                other.health.doubts()
                raise
            if not isinstance(error, _TooSlow):
                first.health.failed(self._clock())
            return raw
        finally:
            self._release(slot)

    def _move(self, slot: Slot, other: Replica) -> None:
        slot.was_moved = True
        slot.book(-1)
        slot.replica = other
        slot.book(1)
        self._pump()  # the one that it was taken from may be free

    async def _ask(self, slot: Slot) -> RawScores:
        """What the slot's replica answers. Raises RequestError."""
        replica, turn = slot.replica, slot.turn
        slot.started, slot.is_asked, slot.interrupt = self._clock(), True, Interrupt()
        outcome = "cancelled"
        try:
            with slot.interrupt:  # `look` may end it
                raw = await replica.engine.score(encode(turn.request), turn.pairs)
        except _TooSlow:
            outcome = "slow"
            raise
        except RequestError as error:
            outcome = error.code
            raise
        else:
            outcome = "ok"
            self._answered(slot)
            return raw
        finally:
            slot.is_asked = False
            seconds = self._clock() - slot.started
            self._events.engine_answered(self._name, replica.index, seconds, outcome)

    def _answered(self, slot: Slot) -> None:
        now, turn = self._clock(), slot.turn
        slot.replica.health.answered()
        self.pace.record(
            turn.pairs,
            turn.size,
            now - self._busy_since,
            now - slot.started,
            is_full=bool(self._line),
        )
        self._busy_since = now

    async def watch(self) -> None:
        """Looks after what is at the engines, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Notes which engines are slow, and takes from them what another can do, once."""
        now = self._clock()
        for slot in tuple(self._slots):
            usual_s = self.pace.slow_after_s(slot.turn.pairs)
            if not slot.is_asked or now - slot.started < usual_s:
                continue
            slot.replica.health.lags(now)
            other = pick(self._replicas, but=slot.replica)
            if other is not None and not other.health.is_slow and not slot.was_moved:
                words = "The engine is stuck: try again."
                slot.interrupt.now(_TooSlow(words, retry_after=RETRY_AFTER_S))
