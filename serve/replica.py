"""One engine process, as the supervisor sees it and as requests load it; who takes more work."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serve.engine import RETRY_AFTER_S, Engine
from serve.errors import Unavailable
from serve.health import Health
from serve.interrupt import Interrupt
from serve.job import Turn
from serve.vllm_log import Progress

TURNS_AT_ONCE = 2  # at an engine: one that it works on, and one to go on with
FIRST_TURNS = 1  # beside them, of requests that have had none


def _nobody_waits() -> None:
    pass


@dataclass(eq=False)
class Replica:
    """`since` is when its phase began, in seconds of the supervisor's clock. `pairs` are in flight,
    `extra` of them beside its usual room. vLLM begins first turns ahead of the `behind` pairs that
    are in none: `passed` pairs more than were done of those.

    `is_leaving`: it gets no more work, and comes back by itself soon (a restart that was asked
    for). `changed` is called when it may take work again, or will not.
    """

    engine: Engine
    index: int = 0
    progress: Progress = field(default_factory=lambda: Progress("starting"))
    since: float = 0.0
    restarts: int = 0
    pairs: int = 0
    extra: int = 0
    behind: int = 0
    passed: int = 0
    is_leaving: bool = False
    health: Health = field(default_factory=Health)
    changed: Callable[[], None] = _nobody_waits

    @property
    def is_ready(self) -> bool:
        """Whether it answers, as far as is known."""
        return self.progress.phase == "ready" and not self.health.is_sick

    @property
    def is_open(self) -> bool:
        """Whether it may be given work."""
        return self.is_ready and not self.is_leaving

    @property
    def is_sick(self) -> bool:
        return self.health.is_sick

    @property
    def is_expected(self) -> bool:
        """Whether work may wait for it."""
        return self.is_ready or self.is_leaving


class Slot:
    """A turn and the replica that it is given to: beside its usual room (`is_extra`), ahead of
    others there (`is_ahead`). `interrupt` ends its wait for an answer."""

    __slots__ = (
        "interrupt",
        "is_ahead",
        "is_asked",
        "is_extra",
        "is_held",
        "replica",
        "started",
        "turn",
        "was_moved",
    )

    interrupt: Interrupt  # of a turn that is asked

    def __init__(self, turn: Turn, replica: Replica, *, is_extra: bool, is_ahead: bool) -> None:
        self.turn = turn
        self.replica = replica
        self.is_extra = is_extra
        self.is_ahead = is_ahead
        self.is_asked = False  # and has not answered
        self.started = 0.0
        self.is_held = False
        self.was_moved = False

    def book(self, sign: int) -> None:
        """Counts it at the replica, or (-1) no more."""
        replica, pairs = self.replica, self.turn.pairs
        replica.pairs += sign * pairs
        if self.is_extra:
            replica.extra += sign * pairs
        if not self.is_ahead:
            replica.behind += sign * pairs
            if sign < 0:  # as many may pass the others as were done, and all if there are none
                replica.passed = max(0, replica.passed - pairs) if replica.behind else 0
        elif sign > 0 and replica.behind:
            replica.passed += pairs


def _usual(replica: Replica) -> int:
    return replica.pairs - replica.extra


def _extra(replica: Replica) -> int:
    return replica.extra


def pick(
    replicas: Sequence[Replica],
    pairs: int = 0,
    window: float = math.inf,
    *,
    but: Replica | None = None,
    load: Callable[[Replica], int] = _usual,
) -> Replica | None:
    """Who takes `pairs` more: the one with the fewest in flight, of those that may have work and
    would then have `window` at most by `load` (one without takes any). A slow one only if all
    are."""
    able = [replica for replica in replicas if replica.is_open and replica is not but]
    swift = [replica for replica in able if not replica.health.is_slow] or able
    free = [r for r in swift if not load(r) or load(r) + pairs <= window]
    return min(free, key=lambda replica: replica.pairs, default=None)


def room_at(
    replicas: Sequence[Replica], pairs: int, turn: int, *, is_new: bool
) -> tuple[Replica | None, bool]:
    """Who takes `pairs` more, where a turn is of `turn` pairs, and whether beside its usual room:
    the first of a request may, while it works for others."""
    replica = pick(replicas, pairs, TURNS_AT_ONCE * turn)
    if is_new and (replica is None or replica.pairs):
        beside = pick(replicas, pairs, FIRST_TURNS * turn, load=_extra)
        return beside or replica, beside is not None
    return replica, False


def unavailable(name: str, replicas: Sequence[Replica]) -> Unavailable:
    """What a client is told when none of the replicas of the model `name` can answer."""
    phases = [replica.progress.phase for replica in replicas]
    if all(phase == "failed" for phase in phases):
        return Unavailable(
            f"The model {name!r} failed and will not come back by itself: the server's log says"
            " why; restart the server when that is mended, or ask another of its models."
        )
    told = ("not answering" if r.is_sick else r.progress.phase for r in replicas)
    return Unavailable(
        f"The model {name!r} is not ready ({', '.join(told)}): try again; /health/ready says when.",
        retry_after=RETRY_AFTER_S,
    )
