"""Every API that the gateway speaks. To add one: one file beside this, one entry in `DIALECTS`."""

from collections.abc import Iterable, Mapping, Sequence

from serve.dialects import (
    documents,
    infinity,
    mixedbread,
    nim,
    pinecone,
    simple,
    tei,
    vllm_score,
    voyage,
)
from serve.dialects.base import Body, Dialect, Headers
from serve.errors import InvalidRequest

# Of those that share a path, the first that a body fits is taken: the particular before the plain.
DIALECTS: Sequence[Dialect] = (
    pinecone.DIALECT,
    voyage.DIALECT,
    nim.SHARED_PATHS,
    nim.OWN_PATHS,
    mixedbread.DIALECT,
    infinity.DIALECT,
    tei.DIALECT,
    simple.DIALECT,
    documents.V1,
    documents.V2,
    documents.VLLM,
    vllm_score.DIALECT,
)


class Sharing(tuple[Dialect, ...]):
    """The APIs of one path."""

    def __init__(self, dialects: Iterable[Dialect]) -> None:
        self._fields = tuple(dict.fromkeys(dialect.texts for dialect in self))

    def choose(self, body: Body, headers: Headers) -> Dialect:
        """Which of them a body is in. Raises InvalidRequest unless it is in one."""
        given = [field for field in self._fields if body.get(field) is not None]
        if len(given) > 1:
            both = " and ".join(f"`{field}`" for field in given)
            raise InvalidRequest(
                f"The body has {both}: send one list of texts to rank.", param=given[1]
            )
        for dialect in self:
            is_there = not dialect.texts or dialect.texts in given
            if is_there and dialect.is_meant(body, headers):
                return dialect
        words = " or ".join(f"`{field}`" for field in self._fields)
        raise InvalidRequest(
            f"The body has no list of texts to rank: send {words}.",
            param=self[-1].texts,
        )


def by_path(dialects: Sequence[Dialect] = DIALECTS) -> Mapping[str, Sharing]:
    """The dialects that share each path."""
    table: dict[str, list[Dialect]] = {}
    for dialect in dialects:
        for path in dialect.paths:
            table.setdefault(path, []).append(dialect)
    return {path: Sharing(sharing) for path, sharing in table.items()}
