"""Pure: the rerank APIs that a server may speak, and where it is.

A dialect makes the body of a request and reads the scores of its answer, in the passages' order.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.load.texts import Question


class WrongAnswer(Exception):
    """An answer that says 200 and holds no score of each passage: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """`route` is where it is mostly spoken, `fields` make the body's fields of a question, and
    `items` find the scores of an answer: by the passage's index, or (`score` empty) in order."""

    name: str
    servers: str
    route: str
    fields: Callable[[Question], Mapping[str, object]]
    items: Callable[[Any], Sequence[Any]]
    score: str

    def body(self, question: Question, model: str | None = None) -> bytes:
        """What to send. A `model` of None is the server's default: it is left out."""
        named = {} if model is None else {"model": model}
        return orjson.dumps({**named, **self.fields(question)})

    def scores(self, content: bytes, passages: int) -> list[float]:
        """A score of each passage, in their order. Raises WrongAnswer."""
        try:
            items = self.items(orjson.loads(content))
            if len(items) != passages:
                raise WrongAnswer(f"{len(items)} scores of {passages} passages")
            if self.score:
                found = {int(item["index"]): item[self.score] for item in items}
                items = [found[index] for index in range(passages)]
            values = [float(item) for item in items if not isinstance(item, bool | str)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WrongAnswer(f"no scores of {passages} passages: {error!r}") from error
        if len(values) != passages or not all(map(math.isfinite, values)):
            raise WrongAnswer("scores that are no finite numbers")
        return values


def _documents(question: Question) -> Mapping[str, object]:
    return {"query": question.query, "documents": question.passages}


def _score(question: Question) -> Mapping[str, object]:
    return {"text_1": question.query, "text_2": question.passages}


def _queries(question: Question) -> Mapping[str, object]:
    return {"queries": question.query, "documents": question.passages}


def _simple(question: Question) -> Mapping[str, object]:
    return {"query": question.query, "passages": question.passages}


def _tei(question: Question) -> Mapping[str, object]:
    return {"query": question.query, "texts": question.passages}


def _nim(question: Question) -> Mapping[str, object]:
    passages = [{"text": passage} for passage in question.passages]
    return {"query": {"text": question.query}, "passages": passages}


def _named(field_name: str) -> Callable[[Any], Sequence[Any]]:
    return lambda answer: answer[field_name]


def _whole(answer: Any) -> Sequence[Any]:
    if not isinstance(answer, list):
        raise TypeError("no list")
    return answer


_TABLE = (
    Dialect(
        "documents",
        "Cohere, Jina, vLLM, Infinity, LiteLLM",
        "/rerank",
        _documents,
        _named("results"),
        "relevance_score",
    ),
    Dialect("score", "vLLM's score API", "/score", _score, _named("data"), "score"),
    Dialect("queries", "vLLM's, in newer words", "/score", _queries, _named("data"), "score"),
    Dialect("simple", "our {query, passages}", "/rerank", _simple, _whole, ""),
    Dialect("tei", "Text Embeddings Inference", "/rerank", _tei, _whole, "score"),
    Dialect("nim", "NVIDIA NIM", "/v1/ranking", _nim, _named("rankings"), "logit"),
)
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _TABLE}


def of_route(route: str) -> Dialect:
    """The dialect that is mostly spoken there."""
    last = route.rstrip("/").rpartition("/")[2]
    name = {"score": "score", "ranking": "nim", "reranking": "nim"}.get(last, "documents")
    return DIALECTS[name]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a base URL (and the Unix socket under it, if there is one), a route of it,
    and what is spoken there. `headers` may hold a key, so they are in no repr."""

    name: str
    url: str
    socket: str | None = None
    dialect: Dialect = DIALECTS["documents"]
    route: str = ""
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> str:
        return self.url.rstrip("/") + (self.route or self.dialect.route)


def failure(status: int, content: bytes) -> str:
    """The status and, where the body tells one as servers do, the error's code."""
    try:
        told = orjson.loads(content)
    except ValueError:
        return str(status)
    places = [told] if isinstance(told, dict) else []
    places += [each["error"] for each in places if isinstance(each.get("error"), dict)]
    for place in places:
        for name in ("error_type", "error", "code", "type"):
            code = place.get(name)
            if isinstance(code, str) and code and len(code) <= 40 and " " not in code:
                return f"{status} {code}"
    return str(status)
