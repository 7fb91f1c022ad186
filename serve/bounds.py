"""The most tokens that a text can give, from its characters alone, in microseconds.

A tokenizer normalizes a text, cuts it into pieces and reads each as tokens of one character of the
normal form at least, or of one byte where a model knows bytes. So a text gives no more tokens than
its normal form has characters, or bytes. Few characters have a longer normal form than themselves
(ﷺ has eighteen characters): those are found once for each tokenizer, and what they add is counted
in each text. The normal form of a text itself is not asked for: that takes as long as tokenizing
it, and Python's takes quadratic time for a run of combining marks.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from tokenizers import Tokenizer, models

_BLOCK = 256  # characters whose normal forms are looked at in one go
_SURROGATES = range(0xD800, 0xE000)  # in no text that could be sent
_PROBE = "1.a." * 16  # many pieces of one character, to whoever cuts words at punctuation
# A pattern that matches one character at least: what takes its place, one character, adds nothing.
_PLAIN_PATTERN = re.compile(r"[^|*?(^$\\{]+(\{[1-9]\d*,?\d*\})?")


class TokenBound:
    """What one tokenizer can make of a text: `bound(text)` is never less than its tokens, special
    tokens around the text not counted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._is_bounded = all(map(_adds_nothing, normalizer_steps(tokenizer.normalizer)))
        self._in_bytes = _in_bytes(tokenizer)
        # Most give a character one token; those that prefix each piece of a word give it two.
        self._each = 2 if _prefixes_pieces(tokenizer) else 1
        self._drops_spaces = _drops_spaces(tokenizer)
        # What stands for a space is one token, unless a vocabulary forgot it.
        self._space = "▁" if tokenizer.token_to_id("▁") is not None else " "
        self._more = dict(self._longer(tokenizer.normalizer)) if self._is_bounded else {}
        self._is_plain_ascii = self._is_bounded and not any(map(str.isascii, self._more))
        self._long = _class_with(self._more)

    def __call__(self, text: str) -> float:
        """The most tokens that the text can give; infinity where that cannot be told."""
        if text.isascii() and self._is_plain_ascii:  # mostly
            return self._each * len(text) + 1
        if not self._is_bounded:
            return math.inf
        # One for the prefix that some put before the text.
        return self._each * (self._length(text) + self._added(text)) + 1

    def _length(self, text: str) -> int:
        if not self._in_bytes or text.isascii():
            return len(text)
        return len(text.encode("utf-8", "replace"))

    def _added(self, text: str) -> int:
        """What the normal form of the text has beyond its own length."""
        if self._long.search(text) is None:
            return 0
        return sum(self._more.get(character, 0) for character in self._long.findall(text))

    def _longer(self, normalizer: Any) -> Iterator[tuple[str, int]]:
        """The characters of all Unicode whose normal form is longer than themselves, and by how
        much.

        What stands beside a character may part its normal form (marks are put in order, and then
        do not compose), so with marks in it, the decomposed form counts.
        """
        composes = any(step.get("type") in ("NFC", "NFKC") for step in normalizer_steps(normalizer))
        for block in range(0, 0x110000 if normalizer else 0, _BLOCK):
            if block in _SURROGATES:
                continue
            characters = [chr(code) for code in range(block, block + _BLOCK)]
            apart = [_with_marks_apart(c) for c in characters] if composes else characters
            whole = "".join(characters)
            if apart == characters and normalizer.normalize_str(whole) == whole:
                continue
            for character in characters:
                normal = normalizer.normalize_str(character)
                forms = (normal, _with_marks_apart(normal)) if composes else (normal,)
                more = max(map(self._normal_length, forms)) - self._length(character)
                if more > 0:
                    yield character, more

    def _normal_length(self, normal: str) -> int:
        normal = normal.replace(self._space, " ")
        return self._length("".join(normal.split()) if self._drops_spaces else normal)


def _class_with(characters: Iterable[str]) -> re.Pattern[str]:
    """What finds `characters` in a text, and others beyond U+FFFF if it must find one of those:
    there, a pattern of single characters is slow."""
    near = "".join(re.escape(c) for c in characters if c <= "\uffff")
    far = "\U00010000-\U0010ffff" if any(c > "\uffff" for c in characters) else ""
    return re.compile(f"[{near}{far}]" if near or far else "(?!)")


def _in_bytes(tokenizer: Tokenizer) -> bool:
    """Whether a character may become a token for each of its bytes."""
    model, pieces = tokenizer.model, tokenizer.pre_tokenizer
    if pieces is not None and b'"ByteLevel"' in pieces.__getstate__():
        return True
    if isinstance(model, models.Unigram):  # it does not say so itself
        return model.token_to_id("<0x00>") is not None
    if isinstance(model, models.WordPiece | models.WordLevel):
        return False
    return bool(getattr(model, "byte_fallback", True))


def _prefixes_pieces(tokenizer: Tokenizer) -> bool:
    """Whether each piece of a text may get a prefix that becomes a token of its own."""
    pieces = tokenizer.pre_tokenizer
    if pieces is None:
        return False
    if sum(len(piece) for piece, _ in pieces.pre_tokenize_str(_PROBE)) > len(_PROBE) + 1:
        return True
    # A token of one character that was added to the vocabulary cuts a text in pieces too.
    added = tokenizer.get_added_tokens_decoder().values()
    has_prefix = sum(len(piece) for piece, _ in pieces.pre_tokenize_str("a")) > 1
    return has_prefix and any(len(token.content) == 1 for token in added)


def _drops_spaces(tokenizer: Tokenizer) -> bool:
    """Whether spaces only part words, and are in no token."""
    pieces = tokenizer.pre_tokenizer
    return pieces is not None and all(
        piece.isalpha() for piece, _ in pieces.pre_tokenize_str(" a  a ")
    )


def _with_marks_apart(text: str) -> str:
    """The canonically decomposed form if it has marks that may change places, else the text."""
    apart = unicodedata.normalize("NFD", text)  # of one character's normal form, never of a text
    return apart if any(map(unicodedata.combining, apart)) else text


def normalizer_steps(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, one after the other."""
    todo = [orjson.loads(normalizer.__getstate__())] if normalizer is not None else []
    while todo:
        step = todo.pop()
        todo += step.get("normalizers", [])
        yield step


def _adds_nothing(step: Mapping[str, Any]) -> bool:
    """Whether a step writes nothing longer in place of several characters. (What it does to one
    character alone is seen there.)"""
    if step.get("type") != "Replace":
        return True
    pattern, content = step["pattern"], len(step["content"].encode())
    if "String" in pattern:
        return len(pattern["String"]) == 1 or content <= len(pattern["String"])
    return content == 0 or (
        len(step["content"]) == 1 and _PLAIN_PATTERN.fullmatch(pattern["Regex"]) is not None
    )
