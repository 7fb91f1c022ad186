"""What a dialect is, and how all of them read the fields of a body.

A dialect only translates: a body into the canonical request, the canonical result or an error into
a body. Field readers take a null as "not given", as clients send it, and name the field, the index
and the remedy when a value does not fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.errors import InvalidRequest, RequestError
from serve.rerank import RerankRequest, RerankResult

Body = Mapping[str, Any]


def render_error(error: RequestError) -> object:
    """One error body for most clients: some read `error.message`, some `message` or `detail`."""
    return {
        "error": {
            "message": error.message,
            "type": error.code,
            "param": error.param,
            "code": error.status,
        },
        "message": error.message,
        "detail": error.message,
    }


@dataclass(frozen=True)
class Dialect:
    """One API. `marks` are fields that only its bodies have, to tell apart those of one path."""

    name: str
    paths: Sequence[str]
    marks: Sequence[str]
    parse: Callable[[Body], RerankRequest]
    render: Callable[[RerankRequest, RerankResult], object]
    render_error: Callable[[RequestError], object] = render_error


# vLLM's request fields that pass through to the engine: name → the type, in a user's words.
ENGINE_FIELDS: Mapping[str, tuple[type, str]] = {
    "truncate_prompt_tokens": (int, "a whole number: -1 (the model's length) or at least 1"),
    "truncation_side": (str, "'left' or 'right'"),
    "padding": (str, "'do_not_pad'"),
    "max_tokens_per_query": (int, "a whole number, 0 for no limit"),
    "max_tokens_per_doc": (int, "a whole number, 0 for no limit"),
    "instruction": (str, "a string"),
    "chat_template_kwargs": (dict, "an object"),
    "mm_processor_kwargs": (dict, "an object"),
    "priority": (int, "a whole number"),
    "cache_salt": (str, "a string"),
    "user": (str, "a string"),
}
# What a template's variables may not be called: vLLM's and transformers' own arguments, by which a
# client could take the prompt's structure away.
_NOT_TEMPLATES = frozenset(
    "add_generation_prompt chat_template continue_final_message conversation documents max_length"
    " messages model_config padding return_assistant_tokens_mask return_dict return_tensors self"
    " tokenize tokenizer tokenizer_kwargs tools truncation".split()
)
_LEAST = {"truncate_prompt_tokens": -1, "max_tokens_per_query": 0, "max_tokens_per_doc": 0}


def engine_options(body: Body) -> dict[str, object]:
    """The fields of `body` that vLLM itself understands, checked."""
    options = {}
    for name, (kind, words) in ENGINE_FIELDS.items():
        value = body.get(name)
        if value is None:
            continue
        low = name in _LEAST and isinstance(value, int) and value < _LEAST[name]
        if type(value) is not kind or low or (name == "truncate_prompt_tokens" and value == 0):
            raise InvalidRequest(f"{name} must be {words}.", param=name)
        options[name] = value
    _check_template_options(body.get("chat_template_kwargs") or {})
    if options.get("padding", "do_not_pad") != "do_not_pad":
        raise InvalidRequest(
            "padding would be read as text and change the scores: leave it out.", param="padding"
        )
    return options


def _check_template_options(given: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for variables that are not a prompt template's own."""
    for name, value in given.items():
        where = f"chat_template_kwargs.{name}"
        if name in _NOT_TEMPLATES:
            raise InvalidRequest(
                f"{where} is no variable of a template: send what the model's template reads, such"
                " as `instruction`.",
                param=where,
            )
        if name == "instruction" and not isinstance(value, str | None):
            raise InvalidRequest(f"{where} must be a string.", param=where)


def common(body: Body) -> dict[str, Any]:
    """The canonical request's fields that every vLLM-like body may carry."""
    activation = boolean(body, "use_activation", default=True)
    return {
        "model": optional_text(body, "model"),
        "use_llm": boolean(body, "use_llm", default=False),
        "raw": not activation,
        "request_id": optional_text(body, "request_id"),
        "options": engine_options(body),
    }


def optional_text(body: Body, name: str) -> str | None:
    """A string, or None when the field is absent, null or empty."""
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise InvalidRequest(f"{name} must be a string.", param=name)


def text(body: Body, name: str) -> str:
    """A string that must be there; it may be empty."""
    value = body.get(name)
    if isinstance(value, str):
        return value
    raise InvalidRequest(f"{name} must be a string; it is {_kind(value)}.", param=name)


def texts(body: Body, name: str, *, read: Callable[[object], str | None]) -> list[str]:
    """A list of texts; `read` gives an item's text, or None when the item is none."""
    words = "a string" if read is string else 'a string or {"text": …}'
    items = body.get(name)
    if not isinstance(items, list):
        raise InvalidRequest(f"{name} must be a list; it is {_kind(items)}.", param=name)
    found = [read(item) for item in items]
    if None in found:
        index = found.index(None)
        where = f"{name}[{index}]"
        raise InvalidRequest(
            f"{where} must be a text; it is {_kind(items[index])}: send {words}.", param=where
        )
    return found  # type: ignore[return-value]  # no None is left in it


def string(item: object) -> str | None:
    """The text of an item that must be a plain string."""
    return item if isinstance(item, str) else None


def string_or_document(item: object) -> str | None:
    """The text of a string or of `{"text": …}`."""
    if isinstance(item, dict):
        item = item.get("text")
    return item if isinstance(item, str) else None


def boolean(body: Body, name: str, *, default: bool) -> bool:
    """A boolean, also as the string that some clients make of it."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise InvalidRequest(f"{name} must be true or false.", param=name)


def count(body: Body, *names: str) -> int | None:
    """The first of `names` that is given, as how many results are wanted; 0 and null are "all"."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 0:
            raise InvalidRequest(f"{name} must be a whole number, 0 for all.", param=name)
        return value or None
    return None


def not_empty(passages: Sequence[str], name: str) -> None:
    """Raises InvalidRequest when there is nothing to score."""
    if not passages:
        raise InvalidRequest(f"{name} is empty: send one text at least.", param=name)


def _kind(value: object) -> str:
    """A JSON value's type in a user's words."""
    kinds = {str: "a string", dict: "an object", list: "a list", bool: "a boolean"}
    if value is None:
        return "null or missing"
    return kinds.get(type(value), "a number")
