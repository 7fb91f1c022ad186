"""Asks a server: which models it has, and how each of them ranks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.outcome import MeasureError, UsageError
from benchmarks.quality.collection import Run
from clients.address import told
from clients.bulk.dispatch import Stop
from clients.bulk.server import Server
from clients.errors import NotFound, RerankError
from clients.requests_client import RerankClient
from clients.retry import Retry
from clients.wire import Answer

PATIENCE = Retry(tries=10**6, budget_s=600)  # of one request, while the server is busy


@dataclass(frozen=True, slots=True)
class Question:
    """One query's documents, with their texts, as they are asked about."""

    id: str
    query: str
    documents: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took. `latencies` in seconds, one for each query that was asked, with all waits
    for a busy server; `tokens` None where the server does not tell; `cut`: passages that the model
    did not read whole."""

    pairs: int
    seconds: float
    latencies: Sequence[float]
    tokens: int | None
    cut: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, and what it takes to be let in. `timeout_s` is of each wait."""

    url: str
    api_key: str | None = None
    fingerprint: str | None = None
    timeout_s: float = 300.0


class _Counting(RerankClient):
    """A client that counts the tokens that the server tells of."""

    tokens: int | None = None

    def send(self, path: str, body: dict[str, object]) -> Answer:
        answer = super().send(path, body)
        usage = answer.body.get("usage") if isinstance(answer.body, dict) else None
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int):
            self.tokens = (self.tokens or 0) + tokens
        return answer


def _connect(address: Address, retry: Retry, stop: Stop) -> _Counting:
    return _Counting(
        address.url,
        api_key=address.api_key,
        fingerprint=address.fingerprint,
        timeout_s=address.timeout_s,
        retry=retry,
        sleep=stop.sleep,
    )


def models(address: Address, wanted: Sequence[str]) -> list[str]:
    """The models to ask: those `wanted`, or one name of each that the server has.

    Raises MeasureError, and UsageError for one that it has not.
    """
    with _told(address.url), _connect(address, Retry(), Stop()) as client:
        try:
            entries = client.models()
        except NotFound as error:
            if wanted:
                return list(dict.fromkeys(wanted))
            raise UsageError(f"{address.url} lists no models: name them with --model") from error
    return _chosen(entries, wanted, address.url)


def _chosen(entries: Sequence[Mapping[str, object]], wanted: Sequence[str], url: str) -> list[str]:
    names = {str(entry.get("id")).lower(): entry for entry in entries}
    for name in wanted:
        if name.lower() not in names:
            have = ", ".join(str(entry.get("id")) for entry in entries)
            raise UsageError(f"--model {name}: {url} has no such model; it has {have}")
    if wanted:
        return list(dict.fromkeys(wanted))
    found: dict[str, str] = {}  # a model has one root, and may have several names
    for entry in entries:
        if entry.get("ready", True):
            found.setdefault(str(entry.get("root") or entry.get("id")), str(entry.get("id")))
    if not found:
        raise MeasureError(f"{url} has no model that is ready: /health/ready tells of each")
    return list(found.values())


def rerank(
    address: Address,
    model: str,
    questions: Sequence[Question],
    *,
    clients: int,
    on_pairs: Callable[[int], object],
) -> tuple[Run, Cost]:
    """Ranks by one model, `clients` requests at once. `on_pairs` is told how many pairs are done.

    Raises MeasureError.
    """
    stop, connected = Stop(), list[_Counting]()

    def connect(retry: Retry) -> RerankClient:
        connected.append(_connect(address, retry, stop))
        return connected[-1]

    server = Server(connect, {"model": model}, PATIENCE)
    began = time.perf_counter()
    try:
        with _told(address.url):
            ranked = _ask_all(server, questions, clients, stop, on_pairs)
        seconds = time.perf_counter() - began
    finally:
        server.close()
    counts = [client.tokens for client in connected if client.tokens is not None]
    cost = Cost(
        pairs=sum(len(question.documents) for question in questions),
        seconds=seconds,
        latencies=[ranked[question.id].seconds for question in questions],
        tokens=sum(counts) if counts else None,
        cut=sum(one.cut for one in ranked.values()),
    )
    return {id: one.documents for id, one in ranked.items()}, cost


@dataclass(frozen=True, slots=True)
class _Ranked:
    documents: Sequence[str]
    seconds: float
    cut: int


def _ask_all(
    server: Server,
    questions: Sequence[Question],
    clients: int,
    stop: Stop,
    on_pairs: Callable[[int], object],
) -> dict[str, _Ranked]:
    """The rankings by their queries' ids. After a failure nothing more is sent."""
    pairs = 0
    with ThreadPoolExecutor(clients, thread_name_prefix="quality") as pool:
        try:
            running = {pool.submit(_ask, server, question): question for question in questions}
            for done in as_completed(running):
                done.result()
                pairs += len(running[done].documents)
                on_pairs(pairs)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {question.id: done.result() for done, question in running.items()}


def _ask(server: Server, question: Question) -> _Ranked:
    began = time.perf_counter()
    items = server.rank(question.query, question.texts)
    seconds = time.perf_counter() - began
    documents = [question.documents[item.index] for item in items]
    return _Ranked(documents, seconds, sum(item.truncated is True for item in items))


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Our clients' errors as the benchmarks': the server's, or of the arguments."""
    try:
        yield
    except RerankError as error:
        raise MeasureError(told(error, url)) from error
    except ValueError as error:  # of the address, the time-out or the fingerprint
        raise UsageError(f"--url: {error}") from error
