"""One request's pairs on their way to engines: cut into turns, put together again."""

import bisect
import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from serve.rerank import RawScores, RerankRequest


def size_of(request: RerankRequest) -> int:
    """The bytes of memory that the texts of a request take."""
    return sum(_sizes(request.passages)) + sum(_sizes(request.queries))


def _sizes(texts: Sequence[str]) -> Iterator[int]:
    """As `sys.getsizeof` has it, in a third of the time."""
    return map(str.__sizeof__, texts)


def priority_of(request: RerankRequest) -> int:
    """What the request says of itself: the lowest number goes first."""
    priority = request.options.get("priority")
    return priority if isinstance(priority, int) else 0


def at_engine(priority: int, *, is_ahead: bool) -> int:
    """The priority that vLLM is told for a turn of a request of this one. It begins those that are
    ahead before others, and of each kind who came first, so that who asks for little waits for no
    more than it is working on."""
    return 2 * priority + (0 if is_ahead else 1)


class Turn(NamedTuple):
    """Some neighbouring pairs of a request, as one request to an engine; `size` in bytes."""

    request: RerankRequest
    size: int

    @property
    def pairs(self) -> int:
        return len(self.request.passages)


class Job:
    """A request that is being scored. Its turns are cut off from its front."""

    def __init__(self, request: RerankRequest, size: int) -> None:
        """`size` is that of the whole request, by `size_of`."""
        self._request = request
        self._size = size
        self._taken = 0
        self.priority = priority_of(request)

    @property
    def left(self) -> int:
        """Pairs that no turn has yet."""
        return len(self._request.passages) - self._taken

    @property
    def is_new(self) -> bool:
        return self._taken == 0

    def take(self, pairs: int, size: int, *, is_ahead: bool = True) -> Turn:
        """The next turn: so many pairs and bytes at most, and one pair at least; ahead of others at
        the engine, or not."""
        whole, start = self._request, self._taken
        if start == 0 and self.left <= pairs and self._size <= size:
            self._taken = len(whole.passages)
            is_plain = is_ahead and self.priority == 0  # mostly: nothing has to be said
            return Turn(
                whole if is_plain else whole._replace(options=self._options(is_ahead)), self._size
            )
        passages = whole.passages[start : start + pairs]
        queries = whole.queries if len(whole.queries) == 1 else whole.queries[start : start + pairs]
        sizes = list(_sizes(passages))
        if len(queries) > 1:
            sizes = list(map(operator.add, sizes, _sizes(queries)))
        if (own := sum(sizes)) > size:
            fit = max(1, bisect.bisect_right(list(accumulate(sizes)), size))
            own, passages, queries = sum(sizes[:fit]), passages[:fit], queries[:fit]
        self._taken = start + len(passages)
        options = self._options(is_ahead)
        return Turn(whole._replace(queries=queries, passages=passages, options=options), own)

    def _options(self, is_ahead: bool) -> Mapping[str, object]:
        priority = at_engine(self.priority, is_ahead=is_ahead)
        return {**self._request.options, "priority": priority}


def join(parts: Sequence[RawScores]) -> RawScores:
    """The values of a job's turns as one."""
    values = [value for part in parts for value in part.values]
    return RawScores(values, sum(part.prompt_tokens for part in parts))
