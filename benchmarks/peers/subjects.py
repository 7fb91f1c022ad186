"""Pure: the models that are measured, and the arithmetic of their shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.peers.texts import QUERY_TOKENS, Lengths

Kind = Literal["logit", "cosine"]
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Subject:
    """A transformer encoder: what its raw values are, its shape, the lengths it is measured at."""

    name: str
    kind: Kind
    config: str  # the shipped YAML that it is served by
    layers: int
    width: int
    inner: int
    heads: int
    most: int  # tokens
    around: Lengths
    pad: str

    @property
    def lengths(self) -> Sequence[int]:
        return (128, self.most)

    def maps(self) -> Sequence[tuple[int, int]]:
        """(K, N) of every linear map of one layer: query, key, value, output, up and down."""
        square = (self.width, self.width)
        return (*[square] * 4, (self.width, self.inner), (self.inner, self.width))

    def flops(self, tokens: float) -> float:
        """Floating point operations of all linear maps over so many tokens, two for each weight.
        Attention's own products (11 % more at 512 tokens of width 768) are not counted."""
        return self.layers * sum(2 * k * n for k, n in self.maps()) * tokens

    def tokens(self, length: int, passages: int) -> float:
        """Tokens that are read for each pair: a query that is read alone is read once for all."""
        if self.around.pair is not None:
            return length
        return length + (QUERY_TOKENS + self.around.alone) / passages


MINILM = Subject(
    name="minilm",
    kind="cosine",
    config="minilm",
    layers=6,
    width=384,
    inner=1536,
    heads=12,
    most=256,
    around=Lengths(pair=None, alone=2),
    pad="[PAD]",
)
CROSS_ENCODER = Subject(
    name="cross-encoder",
    kind="logit",
    config="bge-reranker-base",
    layers=12,
    width=768,
    inner=3072,
    heads=12,
    most=512,
    around=Lengths(pair=4, alone=2),
    pad="<pad>",
)
SUBJECTS: Mapping[str, Subject] = {one.name: one for one in (MINILM, CROSS_ENCODER)}
