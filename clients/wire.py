"""Pure: the bodies that every client sends, and how all of them read an answer.

What is not one finite score for each passage is a BadAnswer: it never becomes a ranking.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from clients.errors import BadAnswer

TIMEOUT_S = 60.0
LONGEST_S = 10**6  # a longer time-out does not fit into what the system waits with
CUT_HEADER = "x-rerank-truncated"  # indices of passages that the model did not read whole
MOST_CUT = 500  # of them in the header


class Options(TypedDict, total=False):
    """Keyword options of `rerank` and `score`, the same of every client. None is "as the server
    has it".

    `model`: a served name, in place of the client's own; `use_llm`: ask the server's LLM reranker;
    `instruction`: in place of an LLM reranker's default; `max_tokens_per_doc`: cut passages there;
    `max_chunks_per_doc`: above 1, a longer passage is scored in so many parts at most, and the best
    counts; `truncation`: False has the server refuse (BadRequest) what it would cut; `priority`:
    lower numbers go first where requests wait.
    """

    model: str | None
    use_llm: bool | None
    instruction: str | None
    max_tokens_per_doc: int | None
    max_chunks_per_doc: int | None
    truncation: bool | None
    priority: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a passage that gave it its score: the part `index` (from 0) of `count` that were
    scored, the characters `start` to `end` (exclusive) of the text as it was sent."""

    index: int
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """One passage of a ranking.

    `index` is its place in the request (from 0), `score` 0..1, `raw_score` the model's own value
    behind it (None from a server that does not tell); `truncated`: whether the model read only a
    part (None: not told, since a server lists 500 at most); `stage` is "first" or "then" from a
    cascade, whose scores compare within a stage only; `chunk` is of a passage that was scored in
    parts (`max_chunks_per_doc`).
    """

    index: int
    score: float
    text: str
    raw_score: float | None = None
    truncated: bool | None = False
    stage: str | None = None
    chunk: Chunk | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its JSON, and what its header `CUT_HEADER` says."""

    body: object
    cut: str = ""


def rerank_body(
    query: str, passages: Sequence[str], top_n: int | None, options: Mapping[str, object]
) -> dict[str, object]:
    """The body of a ranked route. Raises TypeError and ValueError for wrong arguments."""
    check_texts(query, passages)
    if top_n is not None and (type(top_n) is not int or top_n < 1):
        raise ValueError(f"top_n must be a whole number, 1 or more, or None for all; not {top_n!r}")
    return {
        "query": query,
        "documents": list(passages),
        **_given(options),
        **({} if top_n is None else {"top_n": top_n}),
    }


def score_body(
    query: str, passages: Sequence[str], options: Mapping[str, object]
) -> dict[str, object]:
    """The body of the score route. Raises TypeError and ValueError for wrong arguments."""
    check_texts(query, passages)
    return {"text_1": query, "text_2": list(passages), **_given(options)}


def check_timeout(seconds: float) -> None:
    """Raises ValueError."""
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"timeout_s must be more than 0 and at most {LONGEST_S:,}; not {seconds}")


def check_texts(query: str, passages: Sequence[str]) -> None:
    """Raises TypeError for what is no query and passages, ValueError for halves of characters."""
    if isinstance(passages, str | bytes):
        raise TypeError("passages must be a list of strings, not one string")
    _check_text("query", query)
    for index, text in enumerate(passages):
        _check_text(f"passages[{index}]", text)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, not {type(text).__name__}")
    if not is_unicode(text):
        raise ValueError(f"{name} has half a character (a lone surrogate): send valid Unicode")


def is_unicode(text: str) -> bool:
    """Whether a text can be sent: a lone surrogate, as of JSON's \\ud800, cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that are not None. A wrong name would otherwise be ignored without a word."""
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r}: choose from {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}


def read_ranking(answer: Answer, passages: Sequence[str], top_n: int | None) -> list[Ranked]:
    """The ranking in an answer of a ranked route, best first. Raises BadAnswer."""
    results = _list(answer.body, "results")
    expected = len(passages) if top_n is None else min(top_n, len(passages))
    if len(results) != expected:
        raise BadAnswer(f"{len(results)} results for {expected} passages")
    cut = read_cut(answer.cut)
    ranking = []
    seen: set[int] = set()
    for item in results:
        index = _index(item, len(passages), seen)
        ranking.append(
            Ranked(
                index,
                _number(item.get("relevance_score")),
                passages[index],
                None if item.get("raw_score") is None else _number(item["raw_score"]),
                is_cut(index, cut),
                _text(item.get("stage")),
                _chunk(item.get("chunk"), passages[index]),
            )
        )
    return ranking


def read_scores(answer: Answer, count: int) -> list[float]:
    """The scores in an answer of the score route, in the request's order. Raises BadAnswer."""
    items = _list(answer.body, "data")
    if len(items) != count:
        raise BadAnswer(f"{len(items)} scores for {count} passages")
    seen: set[int] = set()
    scores = {_index(item, count, seen): _number(item.get("score")) for item in items}
    return [scores[index] for index in range(count)]


def in_order(ranking: Sequence[Ranked]) -> list[float]:
    """The scores of a whole ranking in the request's order."""
    return [item.score for item in sorted(ranking, key=lambda item: item.index)]


def read_cut(header: str) -> frozenset[int]:
    """The indices in a `CUT_HEADER`. Raises BadAnswer."""
    try:
        return frozenset(int(index) for index in header.split(",") if header.strip())
    except ValueError as error:
        raise BadAnswer(f"{CUT_HEADER} lists no indices: {header[:100]!r}") from error


def is_cut(index: int, cut: frozenset[int]) -> bool | None:
    """Whether a passage was cut; None for one behind the last that a full header could name."""
    if index in cut:
        return True
    return None if len(cut) >= MOST_CUT and index > max(cut) else False


def _list(body: object, name: str) -> list[Mapping[str, object]]:
    items = body.get(name) if isinstance(body, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise BadAnswer(f"the answer has no list `{name}`: is it a rerank server?")
    return items


def _index(item: Mapping[str, object], count: int, seen: set[int]) -> int:
    index = item.get("index")
    if type(index) is not int or not 0 <= index < count or index in seen:
        raise BadAnswer(f"{index!r} is not the index of one of {count} passages, each once")
    seen.add(index)
    return index


def _chunk(value: object, passage: str) -> Chunk | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        found = [value.get(name) for name in Chunk.__annotations__]
        places = [place for place in found if isinstance(place, int) and type(place) is not bool]
        if len(places) == len(found):
            index, count, start, end = places
            if 0 <= index < count and 0 <= start <= end <= len(passage):
                return Chunk(*places)
    raise BadAnswer(f"{str(value)[:100]} is no part of a passage of {len(passage)} characters")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float:
    try:
        if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond all floats
        pass
    raise BadAnswer(f"{str(value)[:100]} is not a score")
