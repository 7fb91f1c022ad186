"""Pure: the description of this server's API, in OpenAPI 3.1.

Every API is described in its own file in `dialects/`. The examples of answers and errors are what
the server's own code makes of the examples of requests, so they cannot be untrue.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serve import __version__
from serve.dialects import DIALECTS, agent, by_path, schemas
from serve.dialects.base import Dialect, Doc
from serve.dialects.schemas import Schema
from serve.headers import CACHED, TRUNCATED
from serve.openapi_errors import (
    EXAMPLE_ID,
    HEADERS,
    SCORING,
    Json,
    any_of,
    camel,
    components,
    error_responses,
    headers,
    variants,
)
from serve.openapi_routes import TELLING
from serve.rerank import RawScores, RerankRequest, RerankResult, Score, build_result

PATH = "/openapi.json"
ABOUT = """\
A query and passages go in; scores from 0 to 1 come out, or the passages ranked by them, in whatever
API the client speaks: the path and the fields of the body tell which one it is.

A null is "not given", and fields that no API knows are ignored. A path may end with a slash, have
two for one, or a version twice (`/v1/v1/rerank`). GET routes answer HEAD too. Another method is
answered with 405, another path with 404. Every error is JSON and says what to do."""
SECURITY: Mapping[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "Api-Key"},
}
TAGS: Mapping[str, str] = {
    "Scoring": "Texts in, scores out.",
    "Agents": "The same as a tool, over the Model Context Protocol.",
    "Models": "What the server offers.",
    "Health": "How it does.",
    "Pages": "For people, and this description.",
}
EXAMPLE_MODEL = "bge-reranker-v2-m3"
_LOGITS = (-5.8125, 4.0625)  # of the passages of an example, in turns
_TOKENS = 24  # of a pair


def build(
    dialects: Sequence[Dialect] = DIALECTS, *, open_paths: Collection[str], needs_key: bool
) -> Json:
    """The document. `open_paths` are those that need no key even where the server has keys."""
    operations: dict[tuple[str, str], dict[str, Any]] = {
        **{(path, "post"): _scoring(sharing) for path, sharing in by_path(dialects).items()},
        (agent.PATH, "post"): _agents(agent.DIALECT),
        **{(path, "get"): dict(operation) for path, operation in TELLING.items()},
    }
    for (path, method), operation in operations.items():
        operation["operationId"] = method + camel(path)
        if path in open_paths:
            operation["security"] = []
        else:
            operation["responses"] = {**error_responses([401, 403]), **operation["responses"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rerank-serve", "version": __version__, "description": ABOUT},
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "security": [{name: []} for name in SECURITY] if needs_key else [],
        "paths": {path: {method: told} for (path, method), told in operations.items()},
        "components": {
            "schemas": _schemas(dialects),
            "responses": components(),
            "headers": HEADERS,
            "securitySchemes": SECURITY,
        },
    }


def _scoring(sharing: Sequence[Dialect]) -> dict[str, Any]:
    """The operation of a path, in all dialects that share it."""
    heeded = {name: words for dialect in sharing for name, words in dialect.doc.headers.items()}
    answers = {camel(dialect.name): answer(dialect) for dialect in sharing}
    bodies = {camel(dialect.name): dialect.doc.example for dialect in sharing}
    return {
        "tags": ["Scoring"],
        "summary": "; ".join(dialect.doc.title for dialect in sharing),
        "description": _told_apart(sharing),
        "parameters": [
            {"name": name, "in": "header", "description": words, "schema": {"type": "string"}}
            for name, words in heeded.items()
        ],
        "requestBody": {"required": True, "content": _content(sharing, "Request", bodies)},
        "responses": {
            "200": {
                "description": "The scores.",
                "headers": headers(TRUNCATED, CACHED),
                "content": _content(sharing, "Answer", answers),
            },
            **error_responses(SCORING, variants(sharing)),
        },
    }


def _told_apart(sharing: Sequence[Dialect]) -> str:
    said = [f"{dialect.doc.title}: {dialect.doc.about}" for dialect in sharing]
    if len(said) == 1:
        return said[0]
    return "The first of these that a body fits is taken:\n\n" + "\n".join(f"- {x}" for x in said)


def _content(dialects: Sequence[Dialect], kind: str, examples: Mapping[str, object]) -> Json:
    names = [camel(dialect.name) for dialect in dialects]
    titles = {camel(dialect.name): dialect.doc.title for dialect in dialects}
    return {
        "application/json": {
            "schema": any_of([name + kind for name in names]),
            "examples": {
                name: {"summary": titles[name], "value": value} for name, value in examples.items()
            },
        }
    }


def example_result(dialect: Dialect) -> tuple[RerankRequest, RerankResult]:
    """What a dialect's example comes to, with an engine's answer that is always the same."""
    request = dialect.parse(dialect.doc.example)
    pairs = len(request.passages)
    values = [_LOGITS[index % len(_LOGITS)] for index in range(pairs)]
    result = build_result(
        request,
        RawScores(values, pairs * _TOKENS),
        score=Score(),
        model=EXAMPLE_MODEL,
        id=f"score-{EXAMPLE_ID}",
        created=1767225600,
    )
    return request, result


def answer(dialect: Dialect) -> object:
    """The answer to a dialect's example."""
    return dialect.render(*example_result(dialect))


def _agents(dialect: Dialect) -> dict[str, Any]:
    """The Model Context Protocol's one path."""
    call = {"name": agent.TOOL, "arguments": dialect.doc.example}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    content = {"type": "text", "text": agent.render_text(*example_result(dialect))}
    result = {"content": [content], "structuredContent": answer(dialect), "isError": False}
    told = {"jsonrpc": "2.0", "id": 1, "result": result}
    return {
        "tags": ["Agents"],
        "summary": dialect.doc.title,
        "description": f"One tool, `{agent.TOOL}`, over streamable HTTP without sessions: one"
        " message a request. `initialize`, `ping`, `tools/list` and `tools/call` are answered.",
        "parameters": [
            {
                "name": "Accept",
                "in": "header",
                "required": True,
                "schema": schemas.const("application/json, text/event-stream"),
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": any_of(["McpRequest"]), "example": asked}},
        },
        "responses": {
            "200": {
                "description": "The answer to a message that has an `id`.",
                "headers": headers(),
                "content": {"application/json": {"schema": any_of(["McpAnswer"]), "example": told}},
            },
            "202": {"description": "A notification was taken.", "headers": headers()},
            "406": {
                "description": "The Accept header is not as above.",
                "headers": headers(),
                "content": {"application/json": {"schema": any_of(["McpError"])}},
            },
            **error_responses((400, 403, 408, 413, 429, 500), variants([dialect])),
        },
    }


def _schemas(dialects: Sequence[Dialect]) -> Json:
    found: Json = {**schemas.TYPES, "Error": schemas.ERROR}
    for dialect in dialects:
        name, doc = camel(dialect.name), dialect.doc
        found[f"{name}Request"] = request_schema(doc)
        found[f"{name}Answer"] = {"title": f"{doc.title}: the answer", **doc.answer}
        if doc.error is not schemas.ERROR:
            found[f"{name}Error"] = doc.error
    messages = {"McpRequest": agent.MESSAGE, "McpAnswer": agent.REPLY, "McpError": agent.ERROR}
    return {**found, **messages}


def request_schema(doc: Doc) -> Schema:
    """The JSON Schema of a dialect's body. Other fields are ignored, so they may be there."""
    told = {"title": doc.title, "description": doc.about, "type": "object"}
    if len(doc.required) == 1:
        return {**told, "properties": doc.fields, "required": doc.required[0]}
    several = {name for names in doc.required for name in names}
    common = {name: field for name, field in doc.fields.items() if name not in several}
    sides = [
        {"required": names, "properties": {name: doc.fields[name] for name in names}}
        for names in doc.required
    ]
    return {**told, "anyOf": sides, "properties": common}
