"""The order in which waiting requests get their turns.

A request asks for one turn at a time, and for the next when it has had that. Those that have had
none yet and those that have had some take turns: so whoever asks for little waits for about one
turn of a large request, however many there are, and no stream of small ones holds up a large one
for ever. Within the two it is first come, first served. Of several priorities the lowest number
goes first, whatever else waits.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Line(Generic[T]):
    """Who waits. Every operation takes the same time, however many there are."""

    def __init__(self) -> None:
        # By priority: those that have had no turn, and those that have.
        self._queues: dict[int, tuple[OrderedDict[T, None], OrderedDict[T, None]]] = {}
        self._places: dict[T, tuple[int, bool]] = {}
        self._last_was_new = False

    def __len__(self) -> int:
        return len(self._places)

    def add(self, waiter: T, *, priority: int, is_new: bool) -> None:
        """Puts one behind the others of its kind. `is_new`: it has had no turn yet."""
        queues = self._queues.setdefault(priority, (OrderedDict(), OrderedDict()))
        queues[0 if is_new else 1][waiter] = None
        self._places[waiter] = (priority, is_new)

    def peek(self) -> T:
        """Who is next. Raises IndexError when nobody waits."""
        return self._next()[0]

    def pop(self) -> T:
        """Takes out who is next. Raises IndexError when nobody waits."""
        waiter, self._last_was_new = self._next()
        self.discard(waiter)
        return waiter

    def _next(self) -> tuple[T, bool]:
        """Who is next, and whether that one is new."""
        if not self._queues:
            raise IndexError("nobody waits")
        new, old = self._queues[min(self._queues)]
        takes_new = bool(new) and not (old and self._last_was_new)
        return next(iter(new if takes_new else old)), takes_new

    def discard(self, waiter: T) -> None:
        """Takes one out, if it is there."""
        place = self._places.pop(waiter, None)
        if place is None:
            return
        priority, is_new = place
        queues = self._queues[priority]
        del queues[0 if is_new else 1][waiter]
        if not any(queues):
            del self._queues[priority]

    def clear(self) -> list[T]:
        """Takes out all."""
        waiters = list(self._places)
        self._queues.clear()
        self._places.clear()
        return waiters
