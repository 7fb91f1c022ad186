"""Sends requests at once and in bounds, and stops when it is told to."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from clients.bulk.plan import Exchange, Reply, Request
from clients.errors import RerankError

# How far the newest request may be ahead of the oldest without a reply, for each request at once.
# It bounds what a reader in order must hold, and what one slow request holds up.
AHEAD = 4
LOOK_S = 0.2  # between looks at whether to stop

Ask = Callable[[Request], Reply]


class Stopped(RerankError):
    """A request was not sent, since the run is stopping."""


@dataclass
class Stop:
    """Whether the run is to stop: it sends no more, and waits for what is on its way."""

    event: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> bool:
        return self.event.is_set()

    def set(self) -> None:
        self.event.set()

    def sleep(self, seconds: float) -> None:
        """Waits, for a retry. Raises Stopped as soon as the run is to stop."""
        if self.event.wait(seconds):
            raise Stopped("the run is stopping")


def dispatch(
    requests: Iterator[Request], ask: Ask, *, concurrency: int, stop: Stop
) -> Iterator[list[Exchange]]:
    """The replies as they come, some at a time; `concurrency` requests are on their way at once.

    When a request fails, or `stop` is set, no more are sent; the replies to those on their way are
    still given. Then the first failure is raised, if there was one: a RerankError, or what `ask`
    raises else.
    """
    failure: BaseException | None = None
    running: dict[Future[Reply], Request] = {}
    with ThreadPoolExecutor(concurrency, thread_name_prefix="rerank") as pool:
        try:
            waiting: Request | None = next(requests, None)
            while running or (waiting and not stop.asked):
                while waiting and not stop.asked and _may_go(waiting, running, concurrency):
                    running[pool.submit(_unless_stopped, ask, waiting, stop)] = waiting
                    waiting = next(requests, None)
                done, _ = wait(running, timeout=LOOK_S, return_when=FIRST_COMPLETED)
                replies = []
                for future in done:
                    request, error = running.pop(future), future.exception()
                    if error is None:
                        replies.append(Exchange(request, future.result()))
                    elif not isinstance(error, Stopped):
                        failure = failure or error
                if replies:
                    yield replies
        except BaseException:  # also when whoever takes the replies fails: no one is left to ask
            stop.set()
            raise
    if failure:
        raise failure


def _may_go(request: Request, running: dict[Future[Reply], Request], concurrency: int) -> bool:
    if not running:
        return True
    oldest = min(other.n for other in running.values())
    # As many again wait in the pool, so that no thread waits for us.
    return len(running) < 2 * concurrency and request.n - oldest < AHEAD * concurrency


def _unless_stopped(ask: Ask, request: Request, stop: Stop) -> Reply:
    if stop.asked:
        raise Stopped("the run is stopping")
    try:
        return ask(request)
    except BaseException:  # before those that wait in the pool get their turn
        stop.set()
        raise
