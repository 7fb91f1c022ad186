"""Pure: how `/openapi.json` describes the routes that score nothing."""

from collections.abc import Mapping
from typing import Any

from serve.dialects import tei
from serve.dialects.schemas import Schema, const, listed, obj, typed
from serve.openapi_errors import Json, error_responses, headers

_NAME = typed("string")
_FLAG = typed("boolean")
_COUNT = typed("integer", minimum=0)
_MAYBE_NUMBER = {"type": ["number", "null"]}
_MAYBE_TEXT = {"type": ["string", "null"]}

REPLICA = obj(
    {
        "phase": typed("string", "`ready`, or what its start has come to."),
        "ready": typed("boolean", "Whether it answers, as far as is known."),
        "health": {
            **_MAYBE_TEXT,
            "description": "Of one that is ready: `good`; `slow`: it owes an answer; `sick`: it"
            " gets no work.",
        },
        "percent": {"type": ["integer", "null"], "description": "Of the phase, where known."},
        "bytes": {"type": ["integer", "null"], "description": "Downloaded so far, where known."},
        "seconds_in_phase": typed("number"),
        "restarts": _COUNT,
        "pairs_in_flight": _COUNT,
    }
)
READINESS = obj(
    {
        "ready": typed("boolean", "Whether any model can score."),
        "degraded": typed("boolean", "Whether some engines can and some cannot."),
        "draining": typed("boolean", "Whether the server is stopping."),
        "models": listed(obj({"name": _NAME, "ready": _FLAG, "replicas": listed(REPLICA)})),
    }
)
MODEL = obj(
    {
        "id": typed("string", "A name that `model` may hold."),
        "object": const("model"),
        "created": typed("integer", "When the server started, in seconds since 1970."),
        "owned_by": _NAME,
        "model_type": const("rerank"),
        "model_name": _NAME,
        "root": typed("string", "The first of the model's names."),
        "revision": _MAYBE_TEXT,
        "max_model_len": {"type": ["integer", "null"], "description": "Tokens of an input."},
        "dtype": {},
        "score": obj({"of": _NAME, "temperature": _MAYBE_NUMBER, "bias": _MAYBE_NUMBER}),
        "cascade": obj({"first": _NAME, "then": _NAME, "keep": _COUNT}),
        "ready": _FLAG,
        "default": typed("boolean", "Whether it answers a request that names no model."),
        "llm": typed("boolean", "Whether it answers `use_llm: true`."),
    },
    optional="revision max_model_len dtype score cascade",
)
MODELS = obj({"object": const("list"), "data": listed(MODEL)})
INFO = obj(
    {
        "model_id": _NAME,
        "model_sha": _MAYBE_TEXT,
        "model_dtype": {},
        "model_type": {"type": "object"},
        "max_concurrent_requests": _COUNT,
        "max_input_length": _COUNT,
        "max_client_batch_size": _COUNT,
        "auto_truncate": _FLAG,
    },
    optional="max_input_length",
)

_REPLICA = {
    "phase": "ready",
    "ready": True,
    "health": "good",
    "percent": None,
    "bytes": None,
    "seconds_in_phase": 61.4,
    "restarts": 0,
    "pairs_in_flight": 0,
}
_READY = {
    "ready": True,
    "degraded": False,
    "draining": False,
    "models": [{"name": "minilm", "ready": True, "replicas": [_REPLICA]}],
}
_STARTING = {**_REPLICA, "phase": "loading", "ready": False, "health": None}
_LOADING = {
    **_READY,
    "ready": False,
    "models": [
        {
            "name": "minilm",
            "ready": False,
            "replicas": [_STARTING],
        },
    ],
}
_MODEL = {
    "id": "minilm",
    "object": "model",
    "created": 1767225600,
    "owned_by": "rerank-serve",
    "model_type": "rerank",
    "model_name": "minilm",
    "root": "minilm",
    "revision": None,
    "max_model_len": 256,
    "dtype": "float32",
    "score": {"of": "cosine", "temperature": None, "bias": None},
    "ready": True,
    "default": True,
    "llm": False,
}
_INFO = tei.info(
    "minilm", revision=None, max_input_length=256, dtype="float32", passages=1000, pairs=4096
)
_METRICS = 'rerank_pairs_total{model="minilm"} 1024.0\n'


def _json(words: str, schema: Schema, example: object) -> Json:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": words, "headers": headers(), "content": content}


def _text(words: str, kind: str, **more: object) -> Json:
    content = {kind: {"schema": typed("string"), **more}}
    return {"description": words, "headers": headers(), "content": content}


def _get(tag: str, summary: str, response: Json, **more: Any) -> Mapping[str, Any]:
    responses = {"200": response, **more.pop("responses", {})}
    return {"tags": [tag], "summary": summary, **more, "responses": responses}


_WAITING = _json("No model can score now.", READINESS, _LOADING)
_WAITING["headers"] = headers("retry-after")
_READINESS = _get(
    "Health",
    "200 when a model can score, else 503: what each engine is doing",
    _json("Ready.", READINESS, _READY),
    responses={"503": _WAITING},
)
TELLING: Mapping[str, Mapping[str, Any]] = {
    "/v1/models": _get(
        "Models",
        "The names that `model` may hold",
        _json(
            "All names, in OpenAI's form and more.", MODELS, {"object": "list", "data": [_MODEL]}
        ),
    ),
    "/v1/models/{model}": _get(
        "Models",
        "One of them",
        _json("The model of that name.", MODEL, _MODEL),
        parameters=[
            {
                "name": "model",
                "in": "path",
                "required": True,
                "description": "A name, in any case; it may have slashes.",
                "schema": {"type": "string", "minLength": 1},
            }
        ],
        responses=error_responses([404]),
    ),
    tei.INFO_PATH: _get(
        "Models",
        "What clients of Text Embeddings Inference ask first",
        _json("The default model, as theirs.", INFO, _INFO),
    ),
    "/v1/cluster/auth": _get(
        "Models",
        "Whether requests need a key: xinference's clients send one only if this says so",
        _json("Whether they do.", obj({"auth": _FLAG}), {"auth": False}),
    ),
    "/health": {**_READINESS, "summary": "The same as `/health/ready`"},
    "/health/ready": _READINESS,
    "/health/live": _get(
        "Health",
        "200 as soon as the server runs",
        _json("It runs.", obj({"live": {"const": True}}), {"live": True}),
    ),
    "/metrics": _get(
        "Health",
        "Metrics for Prometheus",
        _text("In Prometheus' text form.", "text/plain", example=_METRICS),
    ),
    "/": _get(
        "Pages",
        "A page to try queries and passages in",
        _text("It asks no other server.", "text/html"),
    ),
    "/docs": _get("Pages", "This description as a page", _text("The page.", "text/html")),
    "/openapi.json": _get(
        "Pages",
        "This description in OpenAPI 3.1",
        _json("The document.", typed("object"), {"openapi": "3.1.0"}),
    ),
}
