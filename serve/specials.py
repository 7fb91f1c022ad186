"""Text that a tokenizer would take for special tokens, and how it is broken up.

The tokenizer reads `</s>` in a passage as its end-of-sequence token, so a text could end its
sequence, open another or forge an instruction. `Specials` breaks such text up with a space, after
its first character: the words stay readable and the prompt keeps the structure that it was given.

What counts is what the tokenizer sees, and its normalizer may make a special token of other
characters (full-width ＜/s＞, control characters that it deletes). So three questions are asked,
each of fewer texts and dearer than the one before: has the text a character that could begin a
special token; does one stand in it or in its normal form; does the tokenizer see one.
Special tokens of white space alone are left: they are no structure.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer

from serve.bounds import normalizer_steps

# Where a model has no tokenizer.json to read: what the special tokens of most models look like.
USUAL_SPECIALS = (
    "<s> </s> <pad> <unk> <mask> <bos> <eos> [CLS] [SEP] [PAD] [UNK] [MASK] <|im_start|> <|im_end|>"
    " <|endoftext|> <|begin_of_text|> <|end_of_text|> <|eot_id|> <start_of_turn> <end_of_turn>"
).split()
ROUNDS = 8  # of breaking up what breaking up has left; none is known to need more than two
# The round before which all would be well, had the library not misplaced the tokens: it does where
# the normalizer deletes a text's first characters. In the normal form there is nothing to delete.
MISPLACED = 2
_RARE = ("\U000f1234", "\U00012000")  # in no vocabulary: a private character, cuneiform
_BLOCK = 1024  # characters whose normal forms are looked at in one go, about 1 ms


class Specials:
    """The texts that become special tokens, and how they are broken up.

    `tokens` are those texts; with a `tokenizer`, what it sees is what counts.
    """

    def __init__(self, tokens: Iterable[str], tokenizer: Tokenizer | None = None) -> None:
        tokens = set(tokens)
        forms = sorted(_forms(tokens, tokenizer), key=len, reverse=True)  # the longest match first
        self._literal = re.compile("|".join(map(re.escape, forms)) or "(?!)")
        self._tokenizer = tokenizer
        self._ids = {tokenizer.token_to_id(token) for token in tokens} if tokenizer else set()
        starts = _starts(tokens, tokenizer)
        self._ascii_starts = [start for start in starts or () if start.isascii()]
        self._is_any_start = starts is None
        self._starts = re.compile(f"[{re.escape(''.join(sorted(starts)))}]" if starts else "(?!)")

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str = "") -> "Specials":
        """Those of a tokenizer, and what else it reads as one token and the template is made of."""
        # The token of what the vocabulary has not is no structure: any rare character gives it.
        unknown = {
            id for rare in _RARE for id in tokenizer.encode(rare, add_special_tokens=False).ids
        }
        return cls(
            (
                token.content
                for id, token in tokenizer.get_added_tokens_decoder().items()
                if token.content.strip()
                and id not in unknown
                and (token.special or token.content in template)
            ),
            tokenizer,
        )

    def could_hold(self, text: str) -> bool:
        """Whether the text has a character that can begin a special token. It takes no time."""
        if self._is_any_start:
            return True
        if text.isascii():
            return any(start in text for start in self._ascii_starts)
        return self._starts.search(text) is not None

    def neutral(self, text: str) -> str:
        """The text with nothing in it that becomes a special token; the same object if it has none.

        It takes the time of tokenizing the text where that must be asked, outside Python's lock.
        """
        if not self.could_hold(text) or not self._stands_in(text):
            return text
        for turn in range(ROUNDS):
            spans = self._spans(text)
            if not spans:
                break
            if turn == MISPLACED:
                text = _normal(self._tokenizer, text)
                continue
            text = _broken(text, spans, _split if turn < ROUNDS / 2 else _blanked)
        return text

    def _stands_in(self, text: str) -> bool:
        """Whether a special token stands in the text, or in what the normalizer makes of it."""
        if self._literal.search(text):
            return True
        return self._literal.search(_normal(self._tokenizer, text)) is not None

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text special tokens are seen."""
        if self._tokenizer is not None:
            try:
                encoding = self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
            except Exception:  # the library raises nothing narrower, for a vocabulary with holes
                return self._literally(text)
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
            return [span for id, span in pairs if id in self._ids]
        return self._literally(text)

    def _literally(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._literal.finditer(text)]


def _broken(text: str, spans: Iterable[tuple[int, int]], change: Callable[[str], str]) -> str:
    """The text with what stands in `spans`, which follow one another, changed. (Joined once: a text
    of nothing but special tokens has 200,000 of them.)"""
    pieces: list[str] = []
    at = 0
    for begin, end in spans:
        if begin >= at:  # else it is one character that became several
            pieces += text[at:begin], change(text[begin:end])
            at = end
    return "".join(pieces) + text[at:]


def _split(token: str) -> str:
    """A space after the first visible character, or in its place where that is no parting."""
    lead = len(token) - len(token.lstrip())  # some tokens take the space before them
    head, tail = token[: lead + 1], token[lead + 1 :]
    return f"{head} {tail}" if tail and not tail[0].isspace() else f"{head[:-1]} {tail}"


def _blanked(token: str) -> str:
    """Spaces alone: the last resort where a space within is not heeded."""
    return " " * len(token)


# -- what a special token can begin with ---------------------------------------------------------


def _forms(tokens: Iterable[str], tokenizer: Tokenizer | None) -> set[str]:
    """How special tokens may be written in a text, or in its normal form."""
    forms = {form for token in tokens for form in (token, _normal(tokenizer, token))}
    forms |= {form.replace("▁", " ") for form in forms} | {f.replace(" ", "▁") for f in forms}
    return {form.strip(" ▁") or form for form in forms if form}


def _starts(tokens: Iterable[str], tokenizer: Tokenizer | None) -> set[str] | None:
    """The characters that can begin one in a text as it comes; None: any character can."""
    firsts = {form[0] for form in _forms(tokens, tokenizer)}
    firsts |= {unicodedata.normalize("NFKD", first)[0] for first in firsts}
    if any(set(content) & firsts for content in _replacements(tokenizer)):
        return None  # of several characters, such as `&lt;`
    cases = {case for first in firsts for case in (first.lower()[:1], first.upper()[:1])}
    return firsts | cases | _becoming(firsts | cases, tokenizer)


def _normal(tokenizer: Tokenizer | None, text: str) -> str:
    """The text as the tokenizer's normalizer has it."""
    normalizer = tokenizer.normalizer if tokenizer else None
    return str(normalizer.normalize_str(text)) if normalizer else text


def _replacements(tokenizer: Tokenizer | None) -> Iterator[str]:
    """What the normalizer writes in place of more than one character."""
    for step in normalizer_steps(tokenizer.normalizer if tokenizer else None):
        if step.get("type") == "Replace" and len(step["pattern"].get("String", "  ")) > 1:
            yield step["content"]


def _becoming(firsts: set[str], tokenizer: Tokenizer | None) -> set[str]:
    """The characters of all Unicode whose normal form holds one of `firsts`."""
    if tokenizer is None or tokenizer.normalizer is None:
        return set()
    found = set()
    for block in range(0, 0x110000, _BLOCK):
        characters = [
            character
            for character in map(chr, range(block, min(block + _BLOCK, 0x110000)))
            if unicodedata.category(character) not in ("Cn", "Co", "Cs")
        ]
        if firsts & set(_normal(tokenizer, "\0".join(characters))):
            found |= {c for c in characters if firsts & set(_normal(tokenizer, c))}
    return found
