"""Less work: a pair that was scored before, stands twice in a request, or is being scored for
another request is not scored again.

A score depends on the model, the options, the query and the passage, and on nothing else; so what
is known of a pair is kept under a digest of those, and is given again as it was, to the last bit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

import orjson

from serve.events import Events
from serve.job import priority_of
from serve.known import Known
from serve.rerank import RawScores, RerankRequest

if TYPE_CHECKING:
    from serve.shared_cache import SharedCache

Fresh = Callable[[RerankRequest], Awaitable[RawScores]]

ENTRY_BYTES = 224  # of memory, of one pair: measured (tests/test_reuse.py)
MOST_FREED = 1024  # pairs that are forgotten ahead of need
_NO_MATTER = ("priority", "user")  # the options that no score depends on


def keys_of(identity: bytes, request: RerankRequest) -> list[bytes]:
    """A digest for each pair of what its score depends on. `identity` stands for the model."""
    options = {name: o for name, o in request.options.items() if name not in _NO_MATTER}
    asked = orjson.dumps(
        [options, request.may_cut, request.max_chunks], option=orjson.OPT_SORT_KEYS
    )
    head = identity + asked  # JSON says itself where it ends
    heads = [sha256(head + query.encode()).digest() for query in request.queries]
    if len(heads) == 1:
        head = heads[0]
        return [sha256(head + passage.encode()).digest() for passage in request.passages]
    pairs = zip(heads, request.passages, strict=True)
    return [sha256(head + passage.encode()).digest() for head, passage in pairs]


class Memory:
    """The pairs that were asked for last, in so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes // ENTRY_BYTES
        self._entries: dict[bytes, Known] = {}  # who was asked for last stands last

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, keys: Collection[bytes]) -> dict[bytes, Known]:
        """What is known of these."""
        entries = self._entries
        if entries.keys().isdisjoint(keys):  # mostly, and at once
            return {}
        found = {key: entries.pop(key) for key in keys if key in entries}
        entries.update(found)
        return found

    def put(self, known: Mapping[bytes, Known]) -> None:
        """Keeps these, in place of those that were asked for longest ago."""
        entries = self._entries
        entries.update(known)
        beyond = len(entries) - self._most
        if beyond > 0:
            # Some more than it takes, as the way to the first goes over all that stood there; but
            # none of these.
            more = min(MOST_FREED, self._most // 16)
            others = len(entries) - len(known)
            for key in list(islice(entries, max(beyond, min(beyond + more, others)))):
                del entries[key]

    def clear(self) -> None:
        self._entries.clear()


@dataclass(eq=False)
class _Claim:
    """Pairs that a request is having scored. `done` gives them: none, if that failed."""

    pairs: int
    priority: int
    done: "asyncio.Future[Mapping[bytes, Known]]"


class Reuse:
    """What is known of one model's pairs, and who is finding out more."""

    def __init__(
        self,
        name: str,
        most_bytes: int,
        events: Events | None = None,
        shared: "SharedCache | None" = None,
    ) -> None:
        """`name` is the model's; 0 bytes: every pair is scored, whatever is known, here or by
        other servers (`shared`)."""
        self._name = name
        self._is_on = most_bytes > 0
        self._memory = Memory(most_bytes)
        self._events = events or Events()
        self._shared = shared
        self._claims: dict[bytes, _Claim] = {}
        self._identity = b""

    @property
    def pairs(self) -> int:
        """How many are known."""
        return len(self._memory)

    def identify(self, identity: bytes) -> None:
        """From now on scores are of the model that `identity` stands for. What is known of another
        one is forgotten."""
        if identity != self._identity:
            self._identity = identity
            self._memory.clear()

    async def score(self, request: RerankRequest, fresh: Fresh) -> RawScores:
        """The raw values of the request's pairs, of which `fresh` is asked for those that nobody
        knows. Raises what that raises."""
        if not self._is_on:
            return await fresh(request)
        keys = keys_of(self._identity, request)
        places = dict(zip(keys, range(len(keys)), strict=True))  # of several alike, one
        known = self._memory.find(places)
        hits, own, shared, tokens, waits = len(known), 0, 0, 0, True
        while todo := _without(places, known):
            others = self._others(todo, request) if waits else {}
            mine = _without(todo, others)
            if mine:
                found, raw = await self._find_out(request, mine, fresh)
                if len(raw.values) == len(keys):
                    return raw  # mostly
                own, tokens = own + len(raw.values), tokens + raw.prompt_tokens
                shared += len(found) - len(raw.values)
                known |= found
            for claim in set(others.values()):
                known |= await asyncio.shield(claim.done)
            waits = False  # for those who failed: of many that wait, none waits for all the others
        flight = len(places) - hits - own - shared
        self._tell(cache=hits, shared=shared, flight=flight, request=len(keys) - len(places))
        return _assemble([known[key] for key in keys], tokens, reused=len(keys) - own)

    def _tell(self, **reused: int) -> None:
        for how, pairs in reused.items():
            if pairs:
                self._events.reused(self._name, how, pairs)

    def _others(self, keys: Collection[bytes], request: RerankRequest) -> dict[bytes, _Claim]:
        """Who is having which of these scored and will be done no later than this request: who
        asks for no more than it does, and is as urgent."""
        if self._claims.keys().isdisjoint(keys):
            return {}
        pairs, priority = len(request.passages), priority_of(request)
        found = {key: claim for key in keys if (claim := self._claims.get(key))}
        return {
            key: claim
            for key, claim in found.items()
            if claim.pairs <= pairs and claim.priority <= priority
        }

    async def _find_out(
        self, request: RerankRequest, mine: dict[bytes, int], fresh: Fresh
    ) -> tuple[dict[bytes, Known], RawScores]:
        """What other servers know of these pairs of the request or is found by scoring them, which
        whoever asks meanwhile gets too; and the raw values of those that were scored."""
        identity, done = self._identity, asyncio.get_running_loop().create_future()
        claim = _Claim(len(request.passages), priority_of(request), done)
        self._claims |= dict.fromkeys(mine, claim)
        known: dict[bytes, Known] = {}
        raw = RawScores([], 0)
        try:
            if self._shared is not None:
                known = await self._shared.find(mine)
                self._memory.put(known)
            if rest := _without(mine, known):
                raw = await fresh(_part(request, rest.values()))
                scored = _known(rest, raw)
                self._memory.put(scored)
                if self._shared is not None and identity == self._identity:
                    self._shared.put(scored)
                known = known | scored if known else scored
            return known, raw
        finally:
            for key in mine:
                if self._claims.get(key) is claim:
                    del self._claims[key]
            done.set_result(known)


def _without(places: dict[bytes, int], others: Collection[bytes]) -> dict[bytes, int]:
    """Those of the keys that are not among the others."""
    if not others:
        return places
    return {key: place for key, place in places.items() if key not in others}


def _part(request: RerankRequest, places: Collection[int]) -> RerankRequest:
    """The request with the passages at these places alone."""
    if len(places) == len(request.passages):
        return request
    passages = [request.passages[place] for place in places]
    queries = request.queries
    if len(queries) > 1:
        queries = [queries[place] for place in places]
    return request._replace(queries=queries, passages=passages)


def _known(keys: Iterable[bytes], raw: RawScores) -> dict[bytes, Known]:
    """What an answer tells of its pairs, whose keys these are."""
    known: dict[bytes, Known] = dict(zip(keys, raw.values, strict=True))
    if raw.cut or raw.chunks:
        cut = set(raw.cut)
        for place, key in enumerate(keys):
            if place in cut or place in raw.chunks:
                known[key] = (raw.values[place], place in cut, raw.chunks.get(place))
    return known


def _assemble(found: Sequence[Known], prompt_tokens: int, *, reused: int) -> RawScores:
    """The raw values of pairs in their order."""
    if set(map(type, found)) == {float}:  # mostly
        return RawScores(found, prompt_tokens, reused=reused)  # type: ignore[arg-type]
    pairs = [one if isinstance(one, tuple) else (one, False, None) for one in found]
    return RawScores(
        [value for value, _, _ in pairs],
        prompt_tokens,
        cut=[place for place, (_, is_cut, _) in enumerate(pairs) if is_cut],
        chunks={place: chunk for place, (_, _, chunk) in enumerate(pairs) if chunk},
        reused=reused,
    )
