"""What a dialect is: one API, as a translation between its bodies and the canonical types."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.dialects.schemas import ERROR, Schema
from serve.errors import RequestError
from serve.rerank import RerankRequest, RerankResult

Body = Mapping[str, Any]
Headers = Mapping[str, str]  # by names in lower case


def render_error(error: RequestError, id: str) -> dict[str, object]:
    """One error body for most clients: some read `error.message`, some `message` or `detail`."""
    return {
        "id": id,
        "error": {
            "message": error.message,
            "type": error.code,
            "param": error.param,
            "code": error.status,
        },
        "message": error.message,
        "detail": error.message,
    }


def _anyone(body: Body, headers: Headers) -> bool:
    return True


@dataclass(frozen=True)
class Doc:
    """What `/docs` and `/openapi.json` tell of an API.

    `title` is what people call it, `about` what it is for and what tells it apart on a shared path;
    `fields` are what `parse` reads; `required` the sets of them of which one must be there;
    `answer` and `error` are the JSON Schemas of what it renders; `example` is a body, from which
    the example of an answer is made; `headers` are those of a request that it heeds.
    """

    title: str
    about: str
    fields: Mapping[str, Schema]
    required: Sequence[Sequence[str]]
    answer: Schema
    example: Body
    error: Schema = field(default_factory=lambda: ERROR)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect:
    """One API.

    `texts` names the field that holds the texts to rank ("" where it varies): a body with it is in
    this dialect if `is_meant` says so too, which tells apart those that share a path and the field.
    `doc` describes it.
    """

    name: str
    paths: Sequence[str]
    texts: str
    parse: Callable[[Body], RerankRequest]
    render: Callable[[RerankRequest, RerankResult], object]
    render_error: Callable[[RequestError, str], object] = render_error  # of an error and an id
    is_meant: Callable[[Body, Headers], bool] = _anyone
    doc: Doc = field(kw_only=True)
