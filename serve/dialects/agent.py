"""The tool `rerank` that agents call over the Model Context Protocol: its words and its two bodies.

The "body" here is a call's arguments; the result is the tool's structured content. Passages come
back as their beginnings only: the agent has sent the texts, and what returns fills its context.
"""

from collections.abc import Mapping, Sequence

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc
from serve.dialects.fields import not_empty, optional_text, string, text, texts
from serve.errors import InvalidRequest, RequestError
from serve.rerank import RerankRequest, RerankResult

PATH = "/mcp"
TOOL = "rerank"
EXCERPT_CHARS = 200
INVALID_REQUEST = -32600  # JSON-RPC 2.0's code for a message that was not taken
DESCRIPTION = (
    "Orders passages by how well each of them answers a query. A reranker model reads every passage"
    " together with the query. Use it when you have more candidates (search hits, chunks of files,"
    " notes) than you want to read, to learn which to read first. Results come best first; each has"
    " the passage's index in the list you sent, counted from 0, a score from 0 (irrelevant) to 1"
    " (relevant), and the passage's beginning. The scores are there to assist you, not to decide:"
    " read the passages near the top and judge for yourself, instead of taking the first one. Often"
    " several of them are needed, the right one may come second or third, and it may be that none"
    " answers the query. Compare scores within one call only."
)
ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "query": {"type": "string", "description": "What you look for: best a whole question."},
    "passages": {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "The texts to order, each with what is needed to understand it alone.",
    },
    "model": {"type": "string"},
    "top_n": {
        "type": "integer",
        "minimum": 1,
        "description": "How many results to return; all of them when it is left out.",
    },
}
OUTPUT_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "description": "The model that answered."},
        "results": {
            "type": "array",
            "description": "Best first.",
            "items": {
                "type": "object",
                "properties": {
                    "index": {
                        "type": "integer",
                        "description": "The place in `passages`, counted from 0.",
                    },
                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                    "passage": {"type": "string", "description": "The passage's beginning."},
                    "stage": {
                        "type": "string",
                        "enum": ["first", "then"],
                        "description": "Of a cascade: which of its two models gave the score."
                        " `then` is the stronger one; scores compare within a stage only.",
                    },
                },
                "required": ["index", "score", "passage"],
            },
        },
        "truncated": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Indices of passages that were too long for the model to read whole:"
            " their scores are of a part. Split them and ask again.",
        },
    },
    "required": ["model", "results", "truncated"],
}


def input_schema(names: Sequence[str], default: str) -> dict[str, object]:
    """The JSON Schema of the tool's arguments, where `names` are served."""
    model = {"description": f"One of: {', '.join(names)}. Left out, {default} answers."}
    return {
        "type": "object",
        "properties": {**ARGUMENTS, "model": {**ARGUMENTS["model"], **model}},
        "required": ["query", "passages"],
        "additionalProperties": False,
    }


def parse(body: Body) -> RerankRequest:
    unknown = [name for name in body if name not in ARGUMENTS]
    if unknown:
        known = ", ".join(ARGUMENTS)
        raise InvalidRequest(
            f"{unknown[0]} is no argument of this tool; it takes {known}.", param=unknown[0]
        )
    passages = texts(body, "passages", read=string)
    not_empty(passages, "passages")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        model=optional_text(body, "model"),
        top_n=_top_n(body),
        is_ranked=True,
    )


def _top_n(body: Body) -> int | None:
    value = body.get("top_n")
    if value is None or (type(value) is int and value >= 1):
        return value
    raise InvalidRequest("top_n must be a whole number, 1 or more.", param="top_n")


def render(request: RerankRequest, result: RerankResult) -> dict[str, object]:
    """The structured content, as `OUTPUT_SCHEMA` says."""
    return {
        "model": result.model,
        "results": [_item(request, result, index) for index in result.ranking],
        "truncated": list(result.cut),
    }


def _item(request: RerankRequest, result: RerankResult, index: int) -> dict[str, object]:
    item: dict[str, object] = {
        "index": index,
        "score": result.scores[index],
        "passage": excerpt(request.passages[index]),
    }
    if result.stages:
        item["stage"] = result.stages.of(index)
    return item


def render_text(request: RerankRequest, result: RerankResult) -> str:
    """The same in words, for clients that show a model nothing else."""
    of = f"{len(result.ranking)} of {len(request.passages)} passages"
    lines = [f"{of}, ordered by {result.model}, best first (index counts from 0):"]
    for place, index in enumerate(result.ranking, 1):
        stage = f" ({result.stages.of(index)} stage)" if result.stages else ""
        score = f"{result.scores[index]:.4g}"
        lines.append(
            f"{place}. index {index}, score {score}{stage}: {excerpt(request.passages[index])}"
        )
    if result.cut:
        indices = ", ".join(map(str, result.cut))
        lines.append(f"Too long to be read whole, so scored by a part: index {indices}.")
    return "\n".join(lines)


def excerpt(passage: str) -> str:
    """A passage's beginning in one line, at most `EXCERPT_CHARS` characters long."""
    line = " ".join(passage[: 2 * EXCERPT_CHARS].split())
    if len(line) <= EXCERPT_CHARS and len(passage) <= 2 * EXCERPT_CHARS:
        return line
    return line[: EXCERPT_CHARS - 1] + "…"


def render_error(error: RequestError, id: str) -> object:
    """A message refused as a whole. What a call of the tool meets is told in the call's result."""
    return {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": INVALID_REQUEST, "message": error.message, "data": {"type": error.code}},
    }


_ID = {"type": ["string", "integer", "null"]}
_ERROR = schemas.obj(
    {"code": schemas.typed("integer"), "message": schemas.typed("string"), "data": {}},
    optional="data",
)
ERROR: Mapping[str, object] = schemas.obj(
    {"jsonrpc": schemas.const("2.0"), "id": _ID, "error": _ERROR}, optional="id"
)
# The messages of the protocol that the tool's arguments and results travel in.
MESSAGE: Mapping[str, object] = {
    "title": "Model Context Protocol",
    "type": "object",
    "properties": {
        "jsonrpc": schemas.const("2.0"),
        "id": {"type": ["string", "integer"], "description": "Left out in a notification."},
        "method": schemas.typed("string", "`tools/call`, `tools/list`, `initialize`, `ping`, …"),
        "params": {"type": "object", "description": "Of `tools/call`: `name` and `arguments`."},
    },
    "required": ["jsonrpc", "method"],
}
REPLY: Mapping[str, object] = schemas.obj(
    {"jsonrpc": schemas.const("2.0"), "id": _ID, "result": {"type": "object"}, "error": _ERROR},
    optional="result error",
)
DOC = Doc(
    title="Model Context Protocol",
    about=DESCRIPTION,
    fields=ARGUMENTS,
    required=[("query", "passages")],
    answer=OUTPUT_SCHEMA,
    example={"query": schemas.QUESTION, "passages": schemas.PASSAGES},
    error=ERROR,
)
DIALECT = Dialect("mcp", (PATH,), "", parse, render, render_error, doc=DOC)
