"""Pure: records to requests, and answers to rankings.

A pair's score depends on the pair alone, so a long record is asked in parts and merged by the raw
values, which is the order that the server would give. A cascade keeps the best of all passages for
its second model, so its records go whole.

Requests are numbered through the whole input. The numbers depend on the input and the length of a
batch only: a journal that names them stays true from one run to the next.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from clients.bulk.records import Record
from clients.wire import Ranked

MOST_CHARS = 4_000_000  # of passages in one request: far below a server's longest body


@dataclass(frozen=True, slots=True)
class Request:
    """The passages of `record` from `start` to `stop`. `last`: no more of them follow."""

    n: int
    record: Record
    start: int
    stop: int

    @property
    def last(self) -> bool:
        return self.stop == len(self.record.passages)

    @property
    def pairs(self) -> int:
        return self.stop - self.start

    def texts(self) -> list[str]:
        return [passage.text for passage in self.record.passages[self.start : self.stop]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of request `n`: a ranking whose indices are the request's own and whose texts
    are left out, or the server's reason for refusing it."""

    n: int
    items: Sequence[Ranked] = ()
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its reply."""

    request: Request
    reply: Reply

    @property
    def n(self) -> int:
        return self.request.n


@dataclass(frozen=True, slots=True)
class Result:
    """A record's ranking, best first, with texts; or why it has none."""

    record: Record
    items: Sequence[Ranked]
    refusal: str | None = None


class Numbered(Protocol):
    """Something of one request."""

    @property
    def n(self) -> int: ...


N = TypeVar("N", bound=Numbered)


def requests_of(records: Iterable[Record], batch: int | None) -> Iterator[Request]:
    """All requests, of at most `batch` pairs each; None leaves every record whole."""
    n = 0
    for record in records:
        lengths = [len(passage.text) for passage in record.passages]
        stops = cuts(lengths, batch) if batch else [len(lengths)]
        start = 0
        for stop in stops:
            yield Request(n, record, start, stop)
            n, start = n + 1, stop


def cuts(lengths: Sequence[int], batch: int) -> list[int]:
    """Where to end each part: at most `batch` texts and MOST_CHARS characters, at least a text."""
    stops = []
    count = chars = 0
    for index, length in enumerate(lengths):
        if count and (count == batch or chars + length > MOST_CHARS):
            stops.append(index)
            count = chars = 0
        count, chars = count + 1, chars + length
    return [*stops, len(lengths)]


def in_order(items: Iterable[N]) -> Iterator[N]:
    """Items by rising `n`, from 0, holding those that come early. It ends at the first gap."""
    early: dict[int, N] = {}
    wanted = 0
    for item in items:
        early[item.n] = item
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1


def join(exchanges: Iterable[Exchange]) -> Iterator[Result]:
    """The results of records, from all exchanges by rising `n`."""
    parts: list[Sequence[Ranked]] = []
    refusal: str | None = None
    for exchange in exchanges:
        request, reply = exchange.request, exchange.reply
        parts.append(_placed(request, reply))
        refusal = refusal or reply.refusal
        if request.last:
            yield Result(request.record, [] if refusal else merge(parts), refusal)
            parts, refusal = [], None


def _placed(request: Request, reply: Reply) -> Sequence[Ranked]:
    """The reply's items with the record's own indices and texts."""
    passages = request.record.passages
    if reply.refusal is None and len(reply.items) != request.pairs:
        raise ValueError(f"{len(reply.items)} items are kept for {request.pairs} pairs")
    placed = []
    for item in reply.items:
        index = request.start + item.index
        placed.append(replace(item, index=index, text=passages[index].text))
    return placed


def merge(parts: Sequence[Sequence[Ranked]]) -> Sequence[Ranked]:
    """Parts of one record in one order: the server's own, as one request would have it."""
    if len(parts) == 1:
        return parts[0]
    items = [item for part in parts for item in part]
    is_raw = all(item.raw_score is not None for item in items)

    def key(item: Ranked) -> tuple[float, int]:
        value = item.raw_score if is_raw and item.raw_score is not None else item.score
        return -value, item.index

    return sorted(items, key=key)
