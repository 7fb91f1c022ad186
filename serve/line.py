"""The order in which waiting requests get their turns.

A request asks for one turn at a time, and for the next when it has had that. Those that have had
none yet and those that have had some take turns: so whoever asks for little waits for about one
turn of a large request, however many there are, and no stream of small ones holds up a large one
for ever. Some room at the engines is kept for first turns. Within the two it is first come, first
served. Of several priorities the lowest number goes first, whatever else waits.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MOST_OWED = 2  # one for a turn of a new one in its place, one for that which has room of its own


class Line(Generic[T]):
    """Who waits. Every operation takes the same time, however many there are."""

    def __init__(self) -> None:
        # By priority: those that have had no turn, and those that have.
        self._queues: dict[int, tuple[OrderedDict[T, None], OrderedDict[T, None]]] = {}
        self._places: dict[T, tuple[int, bool]] = {}
        self._owed = 0  # turns, to those that have had some: as many as new ones have been given

    def __len__(self) -> int:
        return len(self._places)

    def add(self, waiter: T, *, priority: int, is_new: bool) -> None:
        """Puts one behind the others of its kind. `is_new`: it has had no turn yet."""
        queues = self._queues.setdefault(priority, (OrderedDict(), OrderedDict()))
        queues[0 if is_new else 1][waiter] = None
        self._places[waiter] = (priority, is_new)

    def candidates(self) -> list[T]:
        """Who is next; and, should there be no room for that one, who is next of those that have
        had no turn, for whom some room is kept. Nobody, when nobody waits."""
        if not self._queues:
            return []
        new, old = self._queues[min(self._queues)]
        takes_new = bool(new) and not (old and self._owed)
        queues = (new,) if takes_new else (old, new)
        return [next(iter(queue)) for queue in queues if queue]

    def take(self, waiter: T) -> None:
        """Takes out one that gets its turn."""
        _, is_new = self._places[waiter]
        self._owed = min(self._owed + 1, MOST_OWED) if is_new else max(self._owed - 1, 0)
        self.discard(waiter)

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
