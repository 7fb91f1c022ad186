"""Every API that the gateway speaks. To add one: one file beside this, one entry in `DIALECTS`."""

from collections.abc import Mapping, Sequence

from serve.dialects import cohere, simple, vllm_score
from serve.dialects.base import Body, Dialect
from serve.errors import InvalidRequest

DIALECTS: Sequence[Dialect] = (cohere.V2, cohere.V1, simple.DIALECT, vllm_score.DIALECT)


def by_path(dialects: Sequence[Dialect] = DIALECTS) -> Mapping[str, Sequence[Dialect]]:
    """The dialects that share each path."""
    table: dict[str, list[Dialect]] = {}
    for dialect in dialects:
        for path in dialect.paths:
            table.setdefault(path, []).append(dialect)
    return table


def choose(dialects: Sequence[Dialect], body: Body) -> Dialect:
    """Which of the dialects of one path `body` is in. Raises InvalidRequest unless it is in one."""
    given = [m for dialect in dialects for m in dialect.marks if body.get(m) is not None]
    if len(set(given)) > 1:
        both = " and ".join(f"`{mark}`" for mark in given)
        raise InvalidRequest(
            f"The body has {both}: send one list of texts to rank.", param=given[1]
        )
    for dialect in dialects:
        if not dialect.marks or any(body.get(mark) is not None for mark in dialect.marks):
            return dialect
    marks = " or ".join(f"`{mark}`" for dialect in dialects for mark in dialect.marks)
    raise InvalidRequest(
        f"The body has no list of texts to rank: send {marks}.", param=dialects[0].marks[0]
    )
