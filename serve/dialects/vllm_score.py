"""vLLM's score API: one text against many, or pair by pair, in the request's order."""

from dataclasses import asdict

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc
from serve.dialects.fields import not_empty, string_or_document, text, texts
from serve.dialects.options import common
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest, RerankResult

# The names under which vLLM takes the two sides, in its own order of preference.
_SIDES = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
)


def parse(body: Body) -> RerankRequest:
    left, right = _sides(body)
    queries, passages = _either(body, left), _either(body, right)
    not_empty(queries, left)
    not_empty(passages, right)
    if len(queries) not in (1, len(passages)):
        raise InvalidRequest(
            f"{left} has {len(queries)} texts and {right} {len(passages)}: send one, or as many.",
            param=left,
        )
    return RerankRequest(queries=queries, passages=passages, fields=(left, right), **common(body))


def _sides(body: Body) -> tuple[str, str]:
    found = [(a, b) for a, b in _SIDES if body.get(a) is not None and body.get(b) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(f"`{left}` with `{right}`" for left, right in found)
        raise InvalidRequest(f"The body has {both}: send one pair of sides.", param=found[1][1])
    there = {name for pair in _SIDES for name in pair if body.get(name) is not None}
    for left, right in _SIDES:
        if len(there) == 1 and there < {left, right}:
            (missing,) = {left, right} - there
            words = f"The body has {there.pop()}, and {missing} is missing: send both."
            raise InvalidRequest(words, param=missing)
    pairs = "; ".join(f"{left} and {right}" for left, right in _SIDES)
    raise InvalidRequest(f"The body names no two sides to compare: send {pairs}.", param="queries")


def _either(body: Body, name: str) -> list[str]:
    """A text alone or a list of them."""
    if isinstance(body[name], str | dict):
        return [text(body, name)]
    return texts(body, name, read=string_or_document)


def render(request: RerankRequest, result: RerankResult) -> object:
    data: list[dict[str, object]] = [
        {"index": index, "object": "score", "score": score, "raw_score": raw}
        for index, (score, raw) in enumerate(zip(result.scores, result.raw, strict=True))
    ]
    for index, chunk in result.chunks.items():
        data[index]["chunk"] = asdict(chunk)
    return {
        "id": result.id,
        "object": "list",
        "created": result.created,
        "model": result.model,
        "data": data,
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "total_tokens": result.prompt_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


_SIDE = {
    "anyOf": [{"$ref": "#/components/schemas/Text"}, schemas.TEXTS],
    "description": "One text or a list of them: one on the left for all on the right, or as many.",
}
DOC = Doc(
    title="vLLM score",
    about="Two sides: `queries` and `documents`, `queries` and `items`, `data_1` and `data_2`, or"
    " `text_1` and `text_2`; the scores come back in order.",
    fields={**dict.fromkeys((name for side in _SIDES for name in side), _SIDE), **schemas.COMMON},
    required=_SIDES,
    answer=schemas.obj(
        {
            "id": schemas.ID,
            "object": schemas.const("list"),
            "created": schemas.typed("integer", "Seconds since 1970."),
            "model": schemas.MODEL,
            "data": schemas.listed(
                schemas.obj(
                    {
                        "index": schemas.INDEX,
                        "object": schemas.const("score"),
                        "score": schemas.SCORE,
                        "raw_score": schemas.RAW_SCORE,
                        "chunk": schemas.CHUNK,
                    },
                    optional="chunk",
                )
            ),
            "usage": schemas.obj(
                {
                    **schemas.TOKENS,
                    "completion_tokens": {"const": 0},
                    "prompt_tokens_details": {"type": "null"},
                }
            ),
        }
    ),
    example={"text_1": schemas.QUESTION, "text_2": schemas.PASSAGES},
)
DIALECT = Dialect("vllm-score", ("/score", "/v1/score"), "", parse, render, doc=DOC)
