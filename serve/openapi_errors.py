"""Pure: how `/openapi.json` describes errors and headers, each with what the server would say."""

from collections.abc import Callable, Mapping, Sequence

from serve.dialects.base import Dialect, render_error
from serve.dialects.schemas import Schema, typed
from serve.errors import (
    DeadlineExceeded,
    EngineFault,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    QuotaExceeded,
    RequestError,
    RequestTimeout,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from serve.headers import CACHED, REQUEST_ID, TRUNCATED

Json = dict[str, object]
Variant = tuple[str, Callable[[RequestError, str], object]]  # a schema's name, and who renders it

EXAMPLE_ID = "5f0c9c3e8a6b4f6d9f3d1c2b7a8e9d01"
DEFAULT: Variant = ("Error", render_error)
HEADERS: Mapping[str, Schema] = {
    REQUEST_ID: {
        "description": "The request's own `x-request-id`, if it is of 1 to 128 visible ASCII"
        " characters, else a new one.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": EXAMPLE_ID,
    },
    TRUNCATED: {
        "description": "The indices of texts that the model did not read whole (500 at most); not"
        " there when it read them all.",
        "schema": {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"},
        "example": "3,7",
    },
    CACHED: {
        "description": "How many of the passages were not scored for this request, since their"
        " scores were known: from an earlier one, or as the same passage stands twice; not there"
        " when none was.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
        "example": "12",
    },
    "retry-after": {
        "description": "Seconds after which another try is worth it.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "allow": {"description": "The methods that the path takes.", "schema": typed("string")},
    "connection": {"description": "Always `close`.", "schema": typed("string")},
    "www-authenticate": {"description": "Always `Bearer`.", "schema": typed("string")},
    "x-should-retry": {
        "description": "`false`, which OpenAI's SDK heeds: it would be too slow again.",
        "schema": typed("string"),
    },
}
# What each is for, and one of them as the server tells it.
ERRORS: Sequence[tuple[str, RequestError]] = (
    (
        "The body says something that this server cannot do.",
        InvalidRequest(
            'documents[1] must be a text; it is a number: send a string or {"text": …}.',
            param="documents[1]",
        ),
    ),
    (
        "No key, or not one of this server's. Only of a server that has keys.",
        Unauthorized("This server needs an API key: send `Authorization: Bearer KEY`."),
    ),
    (
        "A web page of another origin asks, or the key is for something else.",
        Forbidden("A page of https://example.com may not use this server's /mcp."),
    ),
    ("No such route or model.", NotFound("There is no model 'x' here.", param="model")),
    ("The path takes another method.", MethodNotAllowed("/rerank takes POST, not GET.", "POST")),
    (
        "The body did not come in time.",
        RequestTimeout(
            "The body did not come whole: nothing for 15 seconds, or not its end within 300: send"
            " it at once.",
            param="body",
        ),
    ),
    (
        "Beyond a size that the model's `limits:` allow, or than the key's whole quota.",
        TooLarge(
            "documents has 1001 texts and the limit is 1000: send them in several requests, or"
            " raise `limits: {passages: …}`.",
            param="documents",
        ),
    ),
    (
        "More is in flight than is worth queueing: try again.",
        Overloaded(
            "4090 pairs are in flight and the limit is 4096: try again, or raise"
            " `limits: {pairs_in_flight: …}`.",
            retry_after=5,
        ),
    ),
    (
        "The key has used up its quota: try again after `retry-after`.",
        QuotaExceeded(
            "The key 'search' has used up its quota, requests=100/minute: try again in 12 s, or"
            " raise the quota in the API key file.",
            retry_after=12,
        ),
    ),
    (
        "A fault of this program.",
        InternalError(f"The server failed; its log says why, under {EXAMPLE_ID}."),
    ),
    (
        "The engine answered, but not with scores.",
        EngineFault("The engine answered 1 scores for 2 pairs: try again."),
    ),
    (
        "No engine can answer now; `retry-after` is there where waiting helps.",
        Unavailable(
            "The model 'm' is not ready (loading): try again; /health/ready says when.",
            retry_after=5,
        ),
    ),
    (
        "The engine did not answer in time.",
        DeadlineExceeded("The engine did not answer in time: send fewer or shorter passages."),
    ),
)
SCORING = (400, 404, 408, 413, 429, 500, 502, 503, 504)  # what a scoring route may answer


def variants(dialects: Sequence[Dialect]) -> Sequence[Variant]:
    """The forms in which a path of `dialects` tells its errors."""
    return [DEFAULT] + [
        (f"{camel(dialect.name)}Error", dialect.render_error)
        for dialect in dialects
        if dialect.render_error is not render_error
    ]


def error_responses(statuses: Sequence[int], forms: Sequence[Variant] = (DEFAULT,)) -> Json:
    """The responses of those statuses: by reference, where there is one error in one form."""
    alike: dict[int, list[tuple[str, RequestError]]] = {}
    for words, error in ERRORS:
        if error.status in statuses:
            alike.setdefault(error.status, []).append((words, error))
    return {
        str(status): {"$ref": f"#/components/responses/{type(told[0][1]).__name__}"}
        if len(told) == len(forms) == 1
        else _response(told, forms)
        for status, told in alike.items()
    }


def components() -> Json:
    """Every error in the default form."""
    return {type(told[1]).__name__: _response([told], [DEFAULT]) for told in ERRORS}


def _response(told: Sequence[tuple[str, RequestError]], forms: Sequence[Variant]) -> Json:
    """The response of a status, which these errors share: each in each form."""
    shown = {
        name if error is told[0][1] else f"{name}-{error.code}": {
            "value": render(error, EXAMPLE_ID)
        }
        for _, error in told
        for name, render in forms
    }
    content = {"schema": any_of([name for name, _ in forms]), "examples": shown}
    named = dict.fromkeys(name for _, error in told for name in error.headers)
    return {
        "description": " ".join(words for words, _ in told),
        "headers": headers(*named),
        "content": {"application/json": content},
    }


def headers(*names: str) -> Json:
    """The headers of a response, with the one that all have."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID, *names)}


def any_of(names: Sequence[str]) -> Schema:
    """One of the schemas of those names."""
    found = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return found[0] if len(found) == 1 else {"anyOf": found}


def camel(name: str) -> str:
    """`cohere-v1` as `CohereV1`, `/v1/models/{model}` as `V1ModelsModel`."""
    words = "".join(letter if letter.isalnum() else " " for letter in name).split()
    return "".join(word[0].upper() + word[1:] for word in words)
