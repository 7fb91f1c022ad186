"""The options that every scoring body may carry, whatever its dialect."""

from collections.abc import Mapping
from typing import Any

import orjson

from serve.dialects.base import Body
from serve.dialects.fields import boolean, choice, count, cutting, kind, optional_text, whole
from serve.dialects.schemas import COMMON, NOT_TEMPLATES
from serve.errors import InvalidRequest

# vLLM's request fields that pass through to the engine: name → the type, in a user's words.
ENGINE_FIELDS: Mapping[str, tuple[type, str]] = {
    "truncate_prompt_tokens": (int, "a whole number: -1 (the model's length) or at least 1"),
    "padding": (str, "'do_not_pad'"),
    "max_tokens_per_query": (int, "a whole number, 0 or more (0 for no limit)"),
    "max_tokens_per_doc": (int, "a whole number, 0 or more (0 for no limit)"),
    "instruction": (str, "a string"),
    "chat_template_kwargs": (dict, "an object"),
    "mm_processor_kwargs": (dict, "an object"),
    "priority": (int, "a whole number"),
    "cache_salt": (str, "a string"),
    "user": (str, "a string"),
}
_LEAST = {"truncate_prompt_tokens": -1, "max_tokens_per_query": 0, "max_tokens_per_doc": 0}
_LEAST_OF_ALL = -(10**9)

_RARE = frozenset(COMMON) - {"model", "use_llm"}


def common(body: Body) -> dict[str, Any]:
    """The canonical request's fields that do not differ between dialects."""
    asked = {
        "model": optional_text(body, "model"),
        "use_llm": boolean(body, "use_llm", default=False),
    }
    # Mostly there is nothing else: not to look for each is a third of the time of reading a body.
    return asked if _RARE.isdisjoint(body) else {**asked, **_rare(body)}


def _rare(body: Body) -> dict[str, Any]:
    """What most bodies do not ask for."""
    refuse_left(body, "truncation_side")
    _refuse_what_is_not_offered(body)
    # Both words for each are read, so that a bad value is told whatever the other one is.
    cuts = [cutting(body, name) for name in ("truncation", "truncate")]
    is_raw = [
        boolean(body, "raw_scores", default=False),
        not boolean(body, "use_activation", default=True),
    ]
    return {
        "raw": any(is_raw),
        "may_cut": all(cuts),
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


def _refuse_what_is_not_offered(body: Body) -> None:
    """Raises InvalidRequest for what other servers do to a request and this one does not."""
    spans = body.get("relevant_spans")
    if spans and not (isinstance(spans, Mapping) and spans.get("mode") == "disabled"):
        raise InvalidRequest(
            "relevant_spans is not offered: leave it out. With `max_chunks_per_doc` above 1 each"
            " result tells which part of a long document gave its score (`chunk`).",
            param="relevant_spans",
        )
    if boolean(body, "rewrite_query", default=False):
        raise InvalidRequest(
            "rewrite_query is not offered: leave it out, the query is scored as it is.",
            param="rewrite_query",
        )


def engine_options(body: Body) -> dict[str, object]:
    """The fields of `body` that vLLM itself understands, checked."""
    options: dict[str, object] = {}
    for name, (of, words) in ENGINE_FIELDS.items():
        least = _LEAST.get(name, _LEAST_OF_ALL)
        value = whole(body, name, words, least=least) if of is int else body.get(name)
        if value is None or (value == "" and name != "instruction"):  # an empty one is one
            continue
        if type(value) is not of:
            raise InvalidRequest(f"{name} must be {words}; it is {kind(value)}.", param=name)
        if name == "truncate_prompt_tokens" and value == 0:
            raise InvalidRequest(f"{name} must be {words}; it is 0.", param=name)
        if of is dict:
            _check_depth(name, value)
        options[name] = value
    _check_template_options(body.get("chat_template_kwargs") or {})
    if options.get("padding", "do_not_pad") != "do_not_pad":
        raise InvalidRequest(
            "padding would be read as text and change the scores: leave it out.", param="padding"
        )
    return options


def _check_depth(name: str, value: object) -> None:
    """Refuses what could not be sent on: JSON is read to a greater depth than it is written."""
    try:
        orjson.dumps([value])
    except orjson.JSONEncodeError as error:
        words = f"{name} is nested too deeply: send what the template reads alone."
        raise InvalidRequest(words, param=name) from error


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
