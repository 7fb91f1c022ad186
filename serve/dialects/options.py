"""The options that every scoring body may carry, whatever its dialect."""

from collections.abc import Mapping
from typing import Any

from serve.dialects.base import Body
from serve.dialects.fields import boolean, choice, count, kind, optional_text, whole
from serve.dialects.schemas import NOT_TEMPLATES
from serve.errors import InvalidRequest

# vLLM's request fields that pass through to the engine: name → the type, in a user's words.
ENGINE_FIELDS: Mapping[str, tuple[type, str]] = {
    "truncate_prompt_tokens": (int, "a whole number: -1 (the model's length) or at least 1"),
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
_LEAST = {"truncate_prompt_tokens": -1, "max_tokens_per_query": 0, "max_tokens_per_doc": 0}
_LEAST_OF_ALL = -(10**9)


def common(body: Body) -> dict[str, Any]:
    """The canonical request's fields that do not differ between dialects."""
    refuse_left(body, "truncation_side")
    return {
        "model": optional_text(body, "model"),
        "use_llm": boolean(body, "use_llm", default=False),
        "raw": not boolean(body, "use_activation", default=True),
        "max_chunks": count(body, "max_chunks_per_doc") or 1,
        "request_id": optional_text(body, "request_id"),
        "options": engine_options(body),
    }


def refuse_left(body: Body, name: str) -> None:
    """Raises InvalidRequest when the field `name` asks to cut texts at their beginning: models are
    cut at the end ("right"), with their special tokens kept."""
    if choice(body, name, "left", "right") == "left":
        raise InvalidRequest(
            f"{name} 'left' would take the query from the pair and its special tokens with it:"
            " leave it out, and send the end of a long text, or have it scored in parts"
            " (max_chunks_per_doc).",
            param=name,
        )


def engine_options(body: Body) -> dict[str, object]:
    """The fields of `body` that vLLM itself understands, checked."""
    options: dict[str, object] = {}
    for name, (of, words) in ENGINE_FIELDS.items():
        least = _LEAST.get(name, _LEAST_OF_ALL)
        value = whole(body, name, words, least=least) if of is int else body.get(name)
        if value is None or (value == "" and name != "instruction"):  # an empty one is one
            continue
        if type(value) is not of or (name == "truncate_prompt_tokens" and value == 0):
            raise InvalidRequest(f"{name} must be {words}; it is {kind(value)}.", param=name)
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
        if name in NOT_TEMPLATES:
            raise InvalidRequest(
                f"{where} is no variable of a template: send what the model's template reads, such"
                " as `instruction`.",
                param=where,
            )
        if name == "instruction" and not isinstance(value, str | None):
            raise InvalidRequest(f"{where} must be a string.", param=where)
