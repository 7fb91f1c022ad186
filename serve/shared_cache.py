"""The score cache that several servers share: what one of them has scored, the others need not. It
is in Redis, which is given digests and numbers, and no text.

To be imported only where a Redis is configured. Whatever becomes of that Redis, a request waits no
longer for it than LIMIT_S, and what it does not give is scored. What it gives is looked at, since
others may write there.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve.errors import ConfigError
from serve.events import Events
from serve.known import Known, decode, encode

log = logging.getLogger(__name__)

PREFIX = b"rerank:1:"  # of our keys; the number is of the values' form
TTL_S = 7 * 24 * 3600
LIMIT_S = 0.05  # for an answer
CONNECT_S = 2.0  # for the way there, which no request waits for
REST_S = 5.0  # how long a Redis that failed is left alone
CLOSE_S = 0.5
READ_AT_ONCE = 1000  # keys of a command: Redis does nothing else meanwhile
WRITTEN_AT_ONCE = 200  # so that a question in between does not wait long
MOST_TOLD = 20_000  # pairs that are to be written: what is beyond is dropped
_PROOF = (b"proof", b"proof of two")  # no digests; a cluster would keep them apart, and says so

Result = TypeVar("Result")


@dataclass(eq=False)
class _Question:
    keys: Collection[bytes]
    answer: "asyncio.Future[dict[bytes, Known]]"


class SharedCache:
    """What is known of pairs by the Redis at `url`. Raises ConfigError if that cannot be used.

    One task asks and tells, over one connection: what comes meanwhile goes along the next time.
    So nobody who leaves takes another one's answer along, and a crowd costs few ways there.
    """

    def __init__(
        self,
        url: str,
        events: Events | None = None,
        *,
        limit_s: float = LIMIT_S,
        rest_s: float = REST_S,
    ) -> None:
        try:
            # Protocol 2 is understood by all; one attempt, as there is a time limit.
            retry = Retry(NoBackoff(), 0)
            pool = ConnectionPool.from_url(url, protocol=2, retry=retry, max_connections=1)
            pool.connection_class(**pool.connection_kwargs)  # which looks at them
        except (TypeError, ValueError) as error:
            words = "correct the URL's port or what is behind its `?`"
            raise ConfigError(f"--cache-redis or RERANK_REDIS_URL: {error}: {words}") from error
        place = pool.connection_kwargs
        self._where = place.get("path") or f"{place.get('host')}:{place.get('port', 6379)}"
        self._redis = Redis.from_pool(pool)
        self._events = events or Events()
        self._limit_s, self._rest_s = limit_s, rest_s
        self._is_up = self._is_failing = False
        self._asked: deque[_Question] = deque()
        self._told: dict[bytes, Known] = {}
        self._wanted = asyncio.Event()

    @property
    def is_up(self) -> bool:
        """Whether it is asked: it worked the last time."""
        return self._is_up

    async def find(self, keys: Collection[bytes]) -> dict[bytes, Known]:
        """What is known of these: nothing, if that cannot be had soon."""
        if not self._is_up:
            return {}
        question = _Question(keys, asyncio.get_running_loop().create_future())
        self._asked.append(question)
        self._wanted.set()
        try:
            return await asyncio.wait_for(question.answer, self._limit_s)
        except TimeoutError:
            return {}

    def put(self, known: Mapping[bytes, Known]) -> None:
        """Has these kept, later on and if there is room."""
        if self._is_up:
            self._told.update(islice(known.items(), MOST_TOLD - len(self._told)))
            self._wanted.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks and tells for as long as the block runs; nothing is left of that then."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            with suppress(Exception):  # it is too late to tell of any
                async with asyncio.timeout(CLOSE_S):
                    while self._is_up and self._told:
                        await self._tell()
            self._give_up()
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await self._redis.aclose()

    # -- the task ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await _in_time(self._prove(), CONNECT_S)
                self._works()
                while True:
                    await self._wanted.wait()
                    self._wanted.clear()
                    while self._asked or self._told:
                        await self._answer()
                        await self._tell()
            except Exception as error:  # whatever it is, there is a server to go on
                self._fails(error)
            await asyncio.sleep(self._rest_s)

    async def _prove(self) -> None:
        """Does what will be done; raises what that would raise."""
        await self._write(dict.fromkeys(_PROOF[:1], 0.0))
        await self._read(_PROOF)

    async def _answer(self) -> None:
        """Answers the questions that came first."""
        questions = self._next()
        found: dict[bytes, Known] = {}
        try:
            keys = list({key for question in questions for key in question.keys})
            if keys:
                values = await _in_time(self._read(keys), self._limit_s)
                both = zip(keys, map(decode, values), strict=True)
                found = {key: known for key, known in both if known is not None}
        finally:
            for question in questions:
                _answer(question, {key: found[key] for key in question.keys if key in found})

    def _next(self) -> list[_Question]:
        """Questions that somebody waits for, of about as many keys as are read at once."""
        some: list[_Question] = []
        keys = 0
        while self._asked and keys < READ_AT_ONCE:
            question = self._asked.popleft()
            if not question.answer.done():
                some.append(question)
                keys += len(question.keys)
        return some

    async def _tell(self) -> None:
        """Writes some of what is to be told."""
        some = dict(islice(self._told.items(), WRITTEN_AT_ONCE))
        if some:
            await _in_time(self._write(some), self._limit_s)
        for key in some:
            self._told.pop(key, None)

    async def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for start in range(0, len(keys), READ_AT_ONCE):
                pipe.mget([PREFIX + key for key in keys[start : start + READ_AT_ONCE]])
            return list(chain.from_iterable(await pipe.execute()))

    async def _write(self, known: Mapping[bytes, Known]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for key, one in known.items():
                pipe.set(PREFIX + key, encode(one), ex=TTL_S)
            await pipe.execute()

    def _works(self) -> None:
        again = " again" if self._is_failing else ""
        log.info("shared cache: %s is used%s", self._where, again)
        self._is_up, self._is_failing = True, False

    def _fails(self, error: Exception) -> None:
        self._give_up()
        self._events.shared_cache_failed()
        if not self._is_failing:
            words = str(error) or type(error).__name__
            log.warning("shared cache: %s is not used until it works: %s", self._where, words)
        self._is_failing = True

    def _give_up(self) -> None:
        self._is_up = False
        self._told.clear()
        while self._asked:
            _answer(self._asked.popleft(), {})


def _answer(question: _Question, known: dict[bytes, Known]) -> None:
    if not question.answer.done():
        question.answer.set_result(known)


async def _in_time(work: Coroutine[Any, Any, Result], limit_s: float) -> Result:
    """What `work` gives. Raises TimeoutError when that takes too long.

    The time comes in two halves: while this process itself was busy for the whole of one, an answer
    may have come, which is read in the other.
    """
    task = asyncio.create_task(work)
    try:
        for _ in range(2):
            await asyncio.wait({task}, timeout=limit_s / 2)
        if not task.done():
            raise TimeoutError(f"no answer within {limit_s:g} s")
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
