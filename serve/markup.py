"""Pure: a few words of HTML, and JSON for people.

What `tag` and the cells of `table` are given is HTML; the others escape what they are given.
"""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape

WIDTH = 76  # characters of a line of JSON


def tag(name: str, *inside: str, **attributes: str) -> str:
    """An element; `class_` stands for `class`, `aria_label` for `aria-label`."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>"


def code(text: str) -> str:
    return tag("code", escape(text))


def link(to: str, inside: str) -> str:
    return tag("a", inside, href=to)


def prose(text: str) -> str:
    """Paragraphs, lists of lines that begin with `- `, and `code` between backticks."""
    return "".join(map(_block, filter(None, text.split("\n\n"))))


def _block(text: str) -> str:
    if text.startswith("- "):
        lines = text.removeprefix("- ").split("\n- ")
        return tag("ul", *(tag("li", _inline(line)) for line in lines))
    return tag("p", _inline(text))


def _inline(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are HTML; its heads are prose."""
    head = tag("tr", *(tag("th", _inline(text), scope="col") for text in heads))
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *lines))


def pretty(value: object, indent: str = "") -> str:
    """JSON in which what fits into a line stands in one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    more = indent + "  "
    if isinstance(value, list):
        items = [pretty(item, more) for item in value]
        return "[\n" + ",\n".join(more + item for item in items) + f"\n{indent}]"
    items = [f"{json.dumps(name)}: {pretty(item, more)}" for name, item in value.items()]
    return "{\n" + ",\n".join(more + item for item in items) + f"\n{indent}}}"
