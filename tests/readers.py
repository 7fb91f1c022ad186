"""What there is to know of a tokenizer, learnt once: that takes a second of each."""

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from serve import tokens
from serve.lengths import Lengths
from serve.rerank import sigmoids
from serve.specials import Specials


def sigmoid(logit: float) -> float:
    """The score of one logit."""
    return sigmoids([logit])[0]


@cache
def tokenizer(folder: Path) -> Tokenizer:
    return tokens.load(folder / "tokenizer.json")


@cache
def lengths(folder: Path, *, is_pair: bool = True) -> Lengths:
    return Lengths(tokenizer(folder), is_pair=is_pair)


@cache
def specials(folder: Path, template: str = "") -> Specials:
    return Specials.of(tokenizer(folder), template)
