"""How all dialects read the fields of a body.

A null is "not given", as clients send it. Numbers and booleans are taken as lenient servers take
them (`"true"`, `1`, `5.0`, `"5"`). What does not fit raises InvalidRequest with the field, the
index and the remedy.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import orjson

from serve.dialects.base import Body
from serve.errors import InvalidRequest, TooLarge

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_MOST = 10**9  # whole numbers beyond it mean no more than it does
MOST_RANK_FIELDS = 100  # each is looked for in every document
_MOST_DIGITS = 11  # of a whole number in a string that are read; so many are beyond it already


def optional_text(body: Body, name: str) -> str | None:
    """A string, or None when the field is absent, null or empty."""
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise InvalidRequest(f"{name} must be a string; it is {kind(value)}.", param=name)


def text(body: Body, name: str) -> str:
    """A text that must be there; it may be empty."""
    found = string_or_document(body.get(name))
    if found is None:
        words = f"it is {kind(body.get(name))}{_near(body, name)}"
        raise InvalidRequest(f"{name} must be a string; {words}.", param=name)
    return found


def texts(body: Body, name: str, *, read: Callable[[object], str | None]) -> list[str]:
    """A list of texts; `read` gives an item's text, or None when the item is none."""
    items = _listed(body, name)
    if set(map(type, items)) <= {str}:  # mostly
        return items  # type: ignore[return-value]
    found = [read(item) for item in items]
    if None in found:
        words = "a string" if read is string else 'a string or {"text": …}'
        index = found.index(None)
        where = f"{name}[{index}]"
        raise InvalidRequest(
            f"{where} must be a text; it is {kind(items[index])}: send {words}.", param=where
        )
    return found  # type: ignore[return-value]  # no None is left in it


def string(item: object) -> str | None:
    """The text of an item that must be a plain string."""
    return item if isinstance(item, str) else None


def string_or_document(item: object) -> str | None:
    """The text of a string, of `{"text": …}`, or of `{"content": …}`, where vLLM's own API also
    takes a list of `{"type": "text", "text": …}`."""
    if not isinstance(item, dict):
        return string(item)
    value = item.get("content") if item.get("text") is None else item["text"]
    if isinstance(value, list) and value:
        parts = [string(part.get("text")) if isinstance(part, dict) else None for part in value]
        return None if None in parts else "\n".join(part or "" for part in parts)
    return string(value)


def documents(body: Body, name: str) -> tuple[list[str], Sequence[object] | None]:
    """The texts of documents, one at least; and the documents as they came, unless every one of
    them is a string.

    `rank_fields` names the fields of an object that are read, in their order, a line each.
    """
    items: list[Any] = _listed(body, name)
    not_empty(items, name)
    names = _rank_fields(body)
    if set(map(type, items)) == {str}:
        return items, None
    for index, item in enumerate(items):
        _check_depth(item, f"{name}[{index}]")
    return [_document(item, names, f"{name}[{index}]") for index, item in enumerate(items)], items


def _rank_fields(body: Body) -> Sequence[str]:
    """The names in `rank_fields`, each once: a body must not grow by what it repeats."""
    if body.get("rank_fields") in (None, ""):
        return []
    names = list(dict.fromkeys(texts(body, "rank_fields", read=string)))
    if len(names) > MOST_RANK_FIELDS:
        raise InvalidRequest(
            f"rank_fields has {len(names)} names and the limit is {MOST_RANK_FIELDS}: send fewer.",
            param="rank_fields",
        )
    return names


def _check_depth(item: object, where: str) -> None:
    """Refuses what could not be answered: JSON is read to a greater depth than it is written."""
    if isinstance(item, str):
        return
    try:
        orjson.dumps([[[item]]])  # as deep as answers hold it
    except orjson.JSONEncodeError as error:
        words = f"{where} is nested too deeply: send its text alone."
        raise InvalidRequest(words, param=where) from error


def _document(item: object, names: Sequence[str], where: str) -> str:
    if isinstance(item, dict) and names:
        values = [item[name] for name in names if item.get(name) is not None]
        if values:
            return "\n".join(v if isinstance(v, str) else orjson.dumps(v).decode() for v in values)
        words = f"it has none of the rank_fields ({', '.join(names)}), but {_names(item)}"
    elif isinstance(item, dict):
        found = string_or_document(item)
        if found is not None:
            return found
        words = "it has no string in `text` or `content`: name its fields in `rank_fields`"
    elif isinstance(item, str):
        return item
    else:
        words = f'it is {kind(item)}: send a string or {{"text": …}}'
    raise InvalidRequest(f"{where} must be a text; {words}.", param=where)


def _names(item: Mapping[str, object]) -> str:
    """The first few names of an object's fields."""
    return ", ".join(name[:80] for name in list(item)[:10]) or "no field"


def boolean(body: Body, name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise InvalidRequest(f"{name} must be true or false.", param=name)


def cutting(body: Body, name: str) -> bool:
    """Whether a text that is too long may be cut: a boolean, or `END` (the default) or `NONE`."""
    value = body.get(name)
    if isinstance(value, str) and value.upper() in ("END", "NONE"):
        return value.upper() == "END"
    try:
        return boolean(body, name, default=True)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name} must be true, false, END or NONE.", param=name) from error


def whole(body: Body, name: str, words: str, *, least: int) -> int | None:
    """A whole number from `least`, or None when it is not given; `words` say what is allowed."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _number(value.strip())
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < least:
        raise InvalidRequest(f"{name} must be {words}.", param=name)
    return min(value, _MOST)


def _number(word: str) -> object:
    """The whole number that a word spells, or the word itself."""
    digits = word.removeprefix("-")
    if not digits.isdecimal():
        return word
    size = int(digits.lstrip("0")[:_MOST_DIGITS] or "0")
    return size if digits is word else -size


def count(body: Body, *names: str) -> int | None:
    """The first of `names` that is given, as how many are wanted at most; 0 and null are None."""
    words = "a whole number, 0 or more (0 for the default)"
    values = [whole(body, name, words, least=0) for name in names]  # none of them is nonsense
    given = [value for value in values if value is not None]
    return (given[0] or None) if given else None


def choice(body: Body, name: str, *words: str, where: str | None = None) -> str | None:
    """One of `words`, in any case, or None when it is not given."""
    value = body.get(name)
    if value is None or value == "":
        return None
    for word in words:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    named = where or name
    raise InvalidRequest(f"{named} must be one of {', '.join(words)}.", param=named)


def not_empty(items: Sequence[object], name: str) -> None:
    """Raises InvalidRequest when there is nothing to score."""
    if not items:
        raise InvalidRequest(f"{name} is empty: send one text at least.", param=name)


def check_lists(body: Body, names: Container[str], most: int) -> None:
    """Raises TooLarge for a list of more than `most` items, before each of them is looked at."""
    for name, items in body.items():
        if isinstance(items, list) and len(items) > most and name in names:
            raise TooLarge(
                f"{name} has {len(items)} texts and the limit is {most}: send them in several"
                " requests, or raise `limits: {passages: …}`.",
                param=name,
            )


def kind(value: object) -> str:
    """A JSON value's type in a user's words."""
    kinds = {str: "a string", dict: "an object", list: "a list", bool: "a boolean"}
    if value is None:
        return "null or missing"
    return kinds.get(type(value), "a number")


def _listed(body: Body, name: str) -> list[object]:
    items = body.get(name)
    if not isinstance(items, list):
        words = f"it is {kind(items)}{_near(body, name)}"
        raise InvalidRequest(f"{name} must be a list; {words}.", param=name)
    return items


def _near(body: Body, name: str) -> str:
    """What a field that is missing may have been called instead."""
    given = [other for other, value in body.items() if value is not None]
    near = get_close_matches(name, given, 1, cutoff=0.8) if name not in given else []
    return f" (the body has `{near[0][:80]}`)" if near else ""
