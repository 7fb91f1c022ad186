"""A text's tokens from those of its words, in microseconds.

Characters alone (`serve.bounds`) promise little: a text of 400 letters has 80 tokens and might have
400, and to tokenize it takes 100 µs. But the usual tokenizers of encoders (WordPiece behind BERT's
splitter, Unigram behind Metaspace) read each word by itself, what stands between white space, so a
text has the tokens that its words have, and most words come again and again. Those are counted
once.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from tokenizers import Tokenizer

from serve.bounds import normalizer_steps

MOST_KNOWN = 100_000  # words, in some 15 MB: then it starts anew, and the usual ones soon are back
LONGEST_TEXT = 20_000  # characters, 10 ms of Python at worst; a longer one is tokenized as a whole
NEW_AT_ONCE = 1_000  # 7 µs each: a text that has more is tokenized as a whole
# Letters and signs of which no normalizer makes a space or a mark: Latin, Greek, Cyrillic.
_PLAIN = re.compile(r"[!-~À-ɏΈ-ώЀ-ҁҊ-ӿ–—‘’“”•…€]{1,48}")
_WHITESPACE = [c for c in map(chr, range(0x3001)) if c.isspace()]  # none is beyond
# Steps that change each character by itself, and marks with what they stand on.
_LOCAL_NORMALIZERS = frozenset(
    "BertNormalizer Lowercase NFC NFD NFKC NFKD Nmt Precompiled Sequence Strip StripAccents".split()
)
_LOCAL_SPLITTERS = frozenset("BertPreTokenizer Whitespace WhitespaceSplit Punctuation".split())


class Words:
    """What is known of a tokenizer's words. To be taught (`count`) by one thread; others may ask
    (`most`) meanwhile."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        bound: Callable[[str], float],
        count: Callable[[str], int],
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
        # What Python splits at and the tokenizer does not.
        self._odd = re.compile(rf"[{re.escape(''.join(joining))}]" if joining else "(?!)")
        alone = _pieces(tokenizer, "ab cd")
        self._reads_runs = _pieces(tokenizer, "ab \n\n  cd") != alone
        self._reads_ends = _pieces(tokenizer, " \n ab cd \n ") != alone
        # One of the added tokens parts a text, and the space before it may become another.
        added = (token.content for token in tokenizer.get_added_tokens_decoder().values())
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)", re.IGNORECASE)

    def most(self, text: str) -> float:
        """The most tokens that the text can give, without tokenizing anything: where a word is not
        known, as many as its characters allow."""
        if self._is_odd(text):
            return self._bound(text)
        words = text.split()
        return sum(map(self._known.__getitem__, words)) + self._more_spaces(text, words)

    def count(self, text: str) -> int:
        """The text's tokens, without special ones. Its words are known from then on."""
        if self._is_odd(text):
            return self._count(text)
        if len(self._known) > MOST_KNOWN:
            self._known = _Known(self._bound)
        words = text.split()
        new = set(words) - self._known.keys()
        plain = list(filter(self._is_plain, new))[:NEW_AT_ONCE]
        self._known.update((word, self._count(word)) for word in plain)
        if len(plain) < len(new) or self._more_spaces(text, words):
            return self._count(text)
        return int(sum(map(self._known.__getitem__, words)))

    def _is_odd(self, text: str) -> bool:
        """Whether its words say nothing of it, or too late."""
        return len(text) > LONGEST_TEXT or self._odd.search(text) is not None

    def _is_plain(self, word: str) -> bool:
        """Whether it is as good as certain that the word is read alone as beside others."""
        return bool(_PLAIN.fullmatch(word)) and not self._added.search(word)

    def _more_spaces(self, text: str, words: Sequence[str]) -> int:
        """White space that may be tokens: at the ends, and beyond one between two words."""
        inner = text.strip()
        ends = len(text) - len(inner) if self._reads_ends else 0
        return ends + (len(inner) - len(" ".join(words)) if self._reads_runs else 0)


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
        return bool(re.fullmatch(r" +(\{\d,\})?", pattern.get("String", pattern.get("Regex"))))
    return step["type"] in _LOCAL_NORMALIZERS


def _splitters(tokenizer: Tokenizer) -> Iterator[Mapping[str, Any]]:
    """The steps of a pre-tokenizer, one after the other."""
    splitter = tokenizer.pre_tokenizer
    whole = orjson.loads(splitter.__getstate__()) if splitter is not None else {"type": "none"}
    yield from whole.get("pretokenizers", [whole])


def _splits_locally(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":  # else only a text's first word would lack the mark of a space
        return bool(step.get("prepend_scheme") == "always")
    return step["type"] in _LOCAL_SPLITTERS


def _parts(tokenizer: Tokenizer, space: str) -> bool:
    """Whether words are read apart that this character stands between, a mark on it or none."""
    both = (*_pieces(tokenizer, f"ab{space}cd"), *_pieces(tokenizer, f"ab{space}\u0301cd"))
    return not any("b" in piece and "c" in piece for piece in both)


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """What is read by itself of a text."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
