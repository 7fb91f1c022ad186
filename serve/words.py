"""The most tokens that a text can give, from what is known of its words, in microseconds.

Characters alone (`serve.bounds`) promise little: a text of 400 letters has 80 tokens and might have
400, so that it would have to be tokenized wherever a model reads less. But the usual tokenizers of
encoders (WordPiece behind BERT's splitter, Unigram behind Metaspace) read each word by itself, what
stands between white space, so a text gives what its words give, and most words come again and
again. Those are counted once; of the others, and of all that is not plain ASCII, the characters
count.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from tokenizers import Tokenizer

from serve.bounds import normalizer_steps

MOST_KNOWN = 100_000  # words, in some 10 MB: then it starts anew, and the usual ones soon are back
LEARNT_AT_ONCE = 500  # 7 µs each
# No digits: numbers are without end, and short.
_WORTH_KNOWING = re.compile(r"[!-/:-~]{1,24}")
_WHITESPACE = [c for c in map(chr, range(sys.maxunicode)) if c.isspace()]
# Steps that change each character by itself, and marks with what they stand on.
_LOCAL_NORMALIZERS = frozenset(
    "BertNormalizer Lowercase NFC NFD NFKC NFKD Nmt Precompiled Sequence Strip StripAccents".split()
)
_LOCAL_SPLITTERS = frozenset("BertPreTokenizer Whitespace WhitespaceSplit Punctuation".split())


class WordBound:
    """`words(text)` is never less than the text's tokens, special tokens around it not counted."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        bound: Callable[[str], float],
        count: Callable[[Sequence[str]], list[int]],
    ) -> None:
        """`bound` is what characters alone say of a text, `count` what the tokenizer does. Raises
        ValueError for a tokenizer that does not read each word by itself."""
        if not _reads_words(tokenizer):
            raise ValueError("this tokenizer's words depend on what stands around them")
        self._bound, self._count = bound, count
        self._known = _Known(bound)
        joining = [c for c in _WHITESPACE if not _parts(tokenizer, c)]
        if " " in joining:
            raise ValueError("this tokenizer reads several words as one")
        added = (token.content for token in tokenizer.get_added_tokens_decoder().values())
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)", re.IGNORECASE)
        # What Python splits at and the tokenizer does not.
        self._odd = re.compile(rf"[{re.escape(''.join(joining))}]" if joining else "(?!)")

    def __call__(self, text: str) -> float:
        """The most tokens that the text can give."""
        if self._odd.search(text):
            return self._bound(text)
        words = text.split()
        # White space beyond one between two words may be tokens of its own.
        spaces = len(text) - len(" ".join(words))
        return sum(map(self._known.__getitem__, words)) + spaces

    def learn(self, texts: Iterable[str]) -> None:
        """Counts the words of `texts` that are not known, as many as take no time. To be called by
        one thread; others may ask meanwhile."""
        if len(self._known) > MOST_KNOWN:
            self._known = _Known(self._bound)
        new = {word for text in texts for word in text.split()} - self._known.keys()
        worthy = [word for word in new if _WORTH_KNOWING.fullmatch(word)][:LEARNT_AT_ONCE]
        # A token of the added ones parts a text: the space before it may become another.
        worthy = [word for word in worthy if not self._added.search(word)]
        self._known.update(zip(worthy, self._count(worthy), strict=True))


class _Known(dict[str, float]):
    """The tokens of words; of one that is not known, the most that its characters allow."""

    def __init__(self, bound: Callable[[str], float]) -> None:
        self._bound = bound

    def __missing__(self, word: str) -> float:
        return self._bound(word)


def _reads_words(tokenizer: Tokenizer) -> bool:
    """Whether what a word becomes cannot depend on the words beside it."""
    if any(re.search(r"\s", t.content) for t in tokenizer.get_added_tokens_decoder().values()):
        return False
    return all(map(_is_local, normalizer_steps(tokenizer.normalizer))) and all(
        map(_splits_locally, _splitters(tokenizer))
    )


def _is_local(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Replace":  # of spaces alone
        pattern = step["pattern"]
        return bool(re.fullmatch(r" +(\{\d,\})?|", pattern.get("String", pattern.get("Regex"))))
    return step["type"] in _LOCAL_NORMALIZERS


def _splitters(tokenizer: Tokenizer) -> Iterator[Mapping[str, Any]]:
    """The steps of a pre-tokenizer, one after the other."""
    pieces = tokenizer.pre_tokenizer
    whole = orjson.loads(pieces.__getstate__()) if pieces is not None else {"type": "none"}
    yield from whole.get("pretokenizers", [whole])


def _splits_locally(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":  # else only a text's first word would lack the mark of a space
        return bool(step.get("prepend_scheme") == "always")
    return step["type"] in _LOCAL_SPLITTERS


def _parts(tokenizer: Tokenizer, space: str) -> bool:
    """Whether words are read apart that this character stands between."""
    for text in (f"ab{space}cd", f"ab{space}\u0301cd"):  # a mark may take the space before it
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        if any("b" in piece and "c" in piece for piece, _ in pieces):
            return False
    return True
