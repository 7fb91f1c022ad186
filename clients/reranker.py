"""What every client is: one way to ask, retry and read, over any way to send."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, Unpack

from clients import pin, wire
from clients.address import check_address
from clients.retry import Clock, Retry, with_retries, with_retries_async
from clients.wire import TIMEOUT_S, Answer, Options, Ranked

RETRY, CLOCK = Retry(), Clock()
RANK, SCORE = "/rerank", "/score"  # below /v1


class Reranker(ABC):
    """A connection to one server, for one thread. Use as a context manager, or close it."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        fingerprint: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry = RETRY,
        clock: Clock = CLOCK,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`base_url` is `http://HOST:PORT`; `model` None asks for the server's default;
        `timeout_s` bounds each wait of a try (for the connection, for the answer's first byte, for
        each next one) and not the whole; `clock` and `sleep` (seconds) are what retries go by.
        `fingerprint` is the SHA-256 of the certificate that the server must have, and then nothing
        else of it counts (`clients/pin.py`): any other server is Unreachable, and is sent nothing.
        Raises ValueError for an address without a scheme, for a wrong time-out or fingerprint, and
        for a fingerprint of an address without TLS."""
        check_address(base_url)
        wire.check_timeout(timeout_s)
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._retry, self._clock, self._sleep = retry, clock, sleep
        self.connect(self.base_url, api_key, timeout_s, pin.check(base_url, fingerprint))

    @abstractmethod
    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        """Makes the underlying client, which trusts that certificate alone, if one is named."""

    @abstractmethod
    def send(self, path: str, body: dict[str, object]) -> Answer:
        """Posts a body to RANK or SCORE, once. Raises RerankError, and nothing foreign."""

    @abstractmethod
    def close(self) -> None:
        """Closes the connection."""

    def rerank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_n: int | None = None,
        **options: Unpack[Options],
    ) -> list[Ranked]:
        """The passages, the best first, at most `top_n` of them; none of no passages.

        Equal scores are in the order of the server, which ranks by the raw values behind them.
        Raises RerankError; TypeError and ValueError for wrong arguments.
        """
        body = wire.rerank_body(query, passages, top_n, _with_model(self.model, options))
        return wire.read_ranking(self._ask(RANK, body), passages, top_n) if passages else []

    def score(self, query: str, passages: Sequence[str], **options: Unpack[Options]) -> list[float]:
        """One score for each passage, 0..1, in the order of `passages`.

        Raises as `rerank` does; BadRequest from a cascade, whose scores do not compare.
        """
        body = wire.score_body(query, passages, _with_model(self.model, options))
        return wire.read_scores(self._ask(SCORE, body), len(passages)) if passages else []

    def _ask(self, path: str, body: dict[str, object]) -> Answer:
        return with_retries(lambda: self.send(path, body), self._retry, self._clock, self._sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncReranker(ABC):
    """A connection to one server, for asyncio: as `Reranker`, awaiting. Use with `async with`."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        fingerprint: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry = RETRY,
        clock: Clock = CLOCK,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """As of `Reranker`."""
        check_address(base_url)
        wire.check_timeout(timeout_s)
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._retry, self._clock, self._sleep = retry, clock, sleep
        self.connect(self.base_url, api_key, timeout_s, pin.check(base_url, fingerprint))

    @abstractmethod
    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        """Makes the underlying client, which trusts that certificate alone, if one is named."""

    @abstractmethod
    async def send(self, path: str, body: dict[str, object]) -> Answer:
        """Posts a body to RANK or SCORE, once. Raises RerankError, and nothing foreign."""

    @abstractmethod
    async def aclose(self) -> None:
        """Closes the connection."""

    async def rerank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_n: int | None = None,
        **options: Unpack[Options],
    ) -> list[Ranked]:
        """As of `Reranker`."""
        body = wire.rerank_body(query, passages, top_n, _with_model(self.model, options))
        return wire.read_ranking(await self._ask(RANK, body), passages, top_n) if passages else []

    async def score(
        self, query: str, passages: Sequence[str], **options: Unpack[Options]
    ) -> list[float]:
        """As of `Reranker`."""
        body = wire.score_body(query, passages, _with_model(self.model, options))
        return wire.read_scores(await self._ask(SCORE, body), len(passages)) if passages else []

    async def _ask(self, path: str, body: dict[str, object]) -> Answer:
        return await with_retries_async(
            lambda: self.send(path, body), self._retry, self._clock, self._sleep
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _with_model(model: str | None, options: Mapping[str, object]) -> Mapping[str, object]:
    """The options, with the client's model where they name none."""
    return options if options.get("model") is not None else {**options, "model": model}
