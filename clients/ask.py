"""Asks a running server for the scores of examples, by every API that it speaks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import requests

from clients import pin
from clients.compare import PLAIN, Observed, Scored, find_name
from clients.errors import is_tls_refusal, why
from clients.requests_client import session
from clients.wire import TIMEOUT_S

# Gets a path, or posts a body to it if that is not None; the answer's JSON. Raises NotAsked.
Fetch = Callable[[str, object], object]
Question = tuple[str, Sequence[str]]  # a query and its passages


class NotAsked(Exception):
    """The server could not be asked, or answered no scores. The message says what to do."""


@dataclass(frozen=True)
class _Dialect:
    """The names of a body's fields; `items` and `score` are where an answer has its scores,
    and empty where it is a plain list of them."""

    query: str
    texts: str
    items: str = ""
    score: str = ""


_DIALECTS: Mapping[str, _Dialect] = {
    PLAIN: _Dialect("query", "passages"),
    "/v1/rerank": _Dialect("query", "documents", "results", "relevance_score"),
    "/v2/rerank": _Dialect("query", "documents", "results", "relevance_score"),
    "/score": _Dialect("text_1", "text_2", "data", "score"),
}

_REMEDIES: Mapping[int, str] = {
    401: "put its key into RERANK_API_KEY, or into a file for --api-key-file",
    403: "put its key into RERANK_API_KEY, or into a file for --api-key-file",
    404: "is it a rerank-serve? Check --url",
    405: "is it a rerank-serve? Check --url",
    413: "use smaller examples, or raise the server's limits",
    429: "it is busy: try again later",
    502: "its engine is at fault: see the server's log",
    503: "wait until GET /health/ready answers 200, then try again",
    504: "its engine was too slow: try again, or see the server's log",
}


def http_fetch(
    base_url: str,
    api_key: str | None = None,
    timeout_s: float = TIMEOUT_S,
    fingerprint: str | None = None,
) -> Fetch:
    """A Fetch over `requests`; `timeout_s` bounds each wait: to connect, between bytes.

    Raises ValueError for a `fingerprint` that is none, or one of an address without TLS.
    """
    http = session(pin.check(base_url, fingerprint))
    if api_key:
        token = b"Bearer " + api_key.encode()

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["authorization"] = token  # type: ignore[assignment]  # bytes go as is
            return request

        http.auth = authorize  # a header alone would yield to a ~/.netrc that names the host

    def fetch(path: str, body: object) -> object:
        url = base_url.rstrip("/") + path
        method = "GET" if body is None else "POST"
        try:
            answer = http.request(method, url, json=body, timeout=timeout_s, allow_redirects=False)
        except (OSError, ValueError) as error:  # all of requests' and urllib3's, and of odd hosts
            raise NotAsked(_unreached(base_url, error)) from error
        if answer.status_code != 200:
            raise NotAsked(_refused(url, answer))
        try:
            return answer.json()
        except ValueError as error:
            raise NotAsked(f"{url} answers no JSON: is it a rerank-serve? Check --url") from error

    return fetch


def observe(fetch: Fetch, model: str, questions: Sequence[Question]) -> Observed:
    """What the server says of `questions`; nothing is asked of it if it does not serve `model`.

    Raises NotAsked.
    """
    entries = _models(fetch("/v1/models", None))
    served = list(entries)
    name = find_name(model, served)
    if name is None:
        return Observed(served)
    if entries[name].get("cascade"):
        raise NotAsked(
            f"{name} is a cascade, which gives no plain scores: check its models instead"
        )
    scored = [
        Scored(
            {path: _ask(fetch, path, name, query, passages) for path in _DIALECTS},
            [_ask(fetch, PLAIN, name, query, [passage])[0] for passage in passages],
        )
        for query, passages in questions
    ]
    dtype, revision = entries[name].get("dtype"), entries[name].get("revision")
    return Observed(
        served,
        dtype if isinstance(dtype, str) else None,
        scored,
        revision if isinstance(revision, str) else None,
    )


def _models(answer: object) -> dict[str, Mapping[str, object]]:
    """The entries of /v1/models by their names."""
    try:
        return {str(entry["id"]): dict(entry) for entry in answer["data"]}  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise NotAsked(
            "/v1/models answers no list of models: is it a rerank-serve? Check --url"
        ) from error


def _ask(fetch: Fetch, path: str, model: str, query: str, passages: Sequence[str]) -> list[float]:
    dialect = _DIALECTS[path]
    body = {"model": model, dialect.query: query, dialect.texts: list(passages)}
    return read_scores(path, fetch(path, body), len(passages))


def read_scores(path: str, answer: object, count: int) -> list[float]:
    """The `count` scores of an answer of `path`, in the request's order; a null becomes NaN.

    Raises NotAsked when the answer has not one score for each passage.
    """
    dialect = _DIALECTS[path]
    try:
        if dialect.items:
            items = answer[dialect.items]  # type: ignore[index]
            pairs = [(item["index"], item[dialect.score]) for item in items]
        else:
            pairs = list(enumerate(answer))  # type: ignore[arg-type]
        scores = {index: float("nan") if score is None else score + 0.0 for index, score in pairs}
        if len(pairs) == count:
            return [scores[index] for index in range(count)]
    except (KeyError, TypeError, OverflowError):
        pass
    raise NotAsked(
        f"{path} answers not one score for each of {count} passages: is it a rerank-serve of this"
        " version? Check --url"
    )


def _unreached(base_url: str, error: Exception) -> str:
    if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
        return f"{base_url} gave no answer in time: try again, or see the server's log"
    if is_tls_refusal(error):
        return f"{base_url} cannot be reached: {why(error)}"
    return (
        f"{base_url} cannot be reached: start it with `make serve`, or name another with --url"
        f" ({why(error)})"
    )


def _refused(url: str, answer: requests.Response) -> str:
    if answer.is_redirect:
        return f"{url} sends elsewhere: name {answer.headers['location']!r} with --url instead"
    try:
        said = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        said = answer.text[:300] or answer.reason or "no reason"
    remedy = _REMEDIES.get(answer.status_code, "see the server's log")
    return f"{url} answers {answer.status_code} ({said.strip()}): {remedy}"
