"""Everything that requests can ask for by name, and who answers."""

from collections.abc import Mapping, Sequence

from serve.cascade import CascadePool
from serve.errors import InvalidRequest, NotFound
from serve.pool import Pool
from serve.stack import Stack

Served = Pool | CascadePool  # what answers a request

# What clients send in place of a name when their user gave none.
NOT_SPECIFIED = ("default", "default/not-specified")


class Catalog:
    """The stack's names, and who answers to them."""

    def __init__(self, stack: Stack, pools: Sequence[Pool]) -> None:
        self.pools = pools
        by_name: dict[str, Pool] = {pool.name: pool for pool in pools}
        self.cascades = [
            CascadePool(name, by_name[cascade.first], by_name[cascade.then], cascade.keep)
            for name, cascade in stack.cascades.items()
        ]
        self._served: Mapping[str, Served] = {
            **{name.lower(): pool for pool in pools for name in pool.model.names},
            **{cascade.name.lower(): cascade for cascade in self.cascades},
        }
        self.default = self._served[stack.default.lower()]
        self.llm = by_name[stack.llm] if stack.llm else None
        self.names = [name for pool in pools for name in pool.model.names] + list(stack.cascades)
        self._is_lenient = stack.unknown_model == "default"

    def choose(self, *, model: str | None, use_llm: bool) -> Served:
        """Who answers: by the model's name, by `use_llm`, or the default.

        Raises NotFound for a name that nobody has (unless the stack says that the default answers),
        InvalidRequest for `use_llm` without an LLM or beside another model's name.
        """
        served = self._served.get((model or "").lower())
        if model in NOT_SPECIFIED:
            model = None
        if model and served is None and not self._is_lenient:
            known = ", ".join(self.names)
            raise NotFound(f"There is no model {model!r} here; served: {known}.", param="model")
        if not use_llm:
            return served or self.default
        if served is not None and served is not self.llm and not _is_llm(served):
            raise InvalidRequest(
                f"use_llm is true, but {model!r} is no LLM reranker: send one of the two.",
                param="use_llm",
            )
        if served is None and self.llm is None:
            raise InvalidRequest(
                "use_llm is true, but no LLM reranker is configured: start the server with one,"
                " `make serve MODEL=rerank-server` (it needs a GPU), or send false.",
                param="use_llm",
            )
        return served or self.llm or self.default

    def name_of(self, served: Served, asked: str | None) -> str:
        """What an answer calls its model: as the request did, if that is a name of it."""
        return asked if asked and self._served.get(asked.lower()) is served else served.name


def _is_llm(served: Served) -> bool:
    return isinstance(served, Pool) and served.model.llm
