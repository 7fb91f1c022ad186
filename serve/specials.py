"""Text that a tokenizer would take for special tokens, and how it is broken up.

The tokenizer reads `</s>` in a passage as its end-of-sequence token, so a text could end its
sequence, open another or forge an instruction. `Specials` breaks such text up with a space, after
its first character: the words stay readable and the prompt keeps the structure that it was given.

What counts is what the tokenizer sees, and its normalizer may make a special token of other
characters (full-width ＜/s＞, control characters that it deletes). So the tokenizer itself is asked
wherever that can be; texts that hold no character which could begin a special token, nearly all,
are let through at once.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tokenizers import Tokenizer

from serve.rerank import RerankRequest

# Where a model has no tokenizer.json to read: what the special tokens of most models look like.
USUAL_SPECIALS = (
    "<s> </s> <pad> <unk> <mask> <bos> <eos> [CLS] [SEP] [PAD] [UNK] [MASK] <|im_start|> <|im_end|>"
    " <|endoftext|> <|begin_of_text|> <|end_of_text|> <|eot_id|> <start_of_turn> <end_of_turn>"
).split()
ROUNDS = 8  # of breaking up what breaking up has left; none is known to need more than two
ASCII = "".join(map(chr, range(0x20, 0x7F)))
_PRINTABLE = re.compile(r"[\t\n\r -~]*")
_RARE = ("\U000f1234", "\U00012000")  # in no vocabulary: a private character, cuneiform
_BLOCK = 1024  # characters whose normal forms are looked at in one go, about 1 ms


class Specials:
    """The texts that become special tokens, and how they are broken up.

    `tokens` are those texts; with a `tokenizer`, what it sees is what counts.
    """

    def __init__(self, tokens: Iterable[str], tokenizer: Tokenizer | None = None) -> None:
        self._tokens = sorted(set(tokens), key=len, reverse=True)  # the longest match first
        self._tokenizer = tokenizer
        self._ids = {tokenizer.token_to_id(token) for token in self._tokens} if tokenizer else set()
        folds = _normal(tokenizer, "A") == "a"
        self._literal = re.compile(
            "|".join(map(re.escape, self._tokens)) or r"(?!)", re.IGNORECASE if folds else 0
        )
        self._is_tame = self._keeps_ascii()
        # What a special token can begin with, in a text as it comes.
        contents = [*self._tokens, *(_normal(tokenizer, token) for token in self._tokens)]
        firsts = {content[0] for content in contents if content}
        starts = firsts | {case for first in firsts for case in (first.lower(), first.upper())}
        self._ascii_starts = {start for start in starts if start.isascii()}
        starts |= _becoming(firsts, tokenizer)
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

    def _keeps_ascii(self) -> bool:
        """Whether the normalizer leaves ASCII as it is, but for case and the look of a space, so
        that a special token in an ASCII text can be seen without asking."""
        normal = _normal(self._tokenizer, f"a{ASCII}  b").replace("▁", " ").lower()
        return normal.strip() == f"a{ASCII}  b".lower()

    def could_hold(self, text: str) -> bool:
        """Whether the text has a character that can begin a special token. It takes no time."""
        if text.isascii() and self._is_tame:
            return any(start in text for start in self._ascii_starts)
        return self._starts.search(text) is not None

    def neutral(self, text: str) -> str:
        """The text with nothing in it that becomes a special token; the same object if it has none.

        It takes the time of tokenizing the text where that must be asked, outside Python's lock.
        """
        if not self.could_hold(text):
            return text
        for _ in range(ROUNDS):
            if not self._literal.search(text):
                break
            text = self._literal.sub(lambda match: _split(match[0]), text)
        if self._tokenizer is None or (self._is_tame and _PRINTABLE.fullmatch(text)):
            return text
        return self._until_none_is_seen(text, self._tokenizer)

    def _until_none_is_seen(self, text: str, tokenizer: Tokenizer) -> str:
        for turn in range(ROUNDS):
            encoding = tokenizer.encode_batch([text], add_special_tokens=False)[0]
            spans = [
                span
                for id, span in zip(encoding.ids, encoding.offsets, strict=True)
                if id in self._ids
            ]
            if not spans:
                return text
            for begin, end in reversed(spans):
                token = text[begin:end].lstrip()  # some tokens take the space before them
                begin = end - len(token)
                broken = _split(token) if turn < ROUNDS / 2 else " "  # a space that is not heeded
                text = text[:begin] + broken + text[end:]
        return self._starts.sub(" ", text)


def texts_of(request: RerankRequest) -> Iterable[str]:
    """Every text of a request that comes to the model: queries, passages, instruction."""
    yield from request.queries
    yield from request.passages
    yield from _strings(request.options)


def _strings(value: object) -> Iterable[str]:
    """Every string in a JSON value, but for the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def exchange(request: RerankRequest, texts: Mapping[str, str]) -> RerankRequest:
    """The request with the texts that are keys of `texts` exchanged for its values."""
    return replace(
        request,
        queries=[texts.get(text, text) for text in request.queries],
        passages=[texts.get(text, text) for text in request.passages],
        options={name: _exchanged(value, texts) for name, value in request.options.items()},
    )


def _exchanged(value: object, texts: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, Mapping):
        return {key: _exchanged(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_exchanged(item, texts) for item in value]
    return value


def _split(token: str) -> str:
    """A space after the first character, or in its place where that is no parting."""
    if len(token) < 2 or token[1].isspace():
        return " " + token[1:]
    return f"{token[0]} {token[1:]}"


def _normal(tokenizer: Tokenizer | None, text: str) -> str:
    """The text as the tokenizer's normalizer has it."""
    normalizer = tokenizer.normalizer if tokenizer else None
    return str(normalizer.normalize_str(text)) if normalizer else text


def _becoming(firsts: set[str], tokenizer: Tokenizer | None) -> set[str]:
    """The characters of all Unicode whose normal form holds one of `firsts`."""
    if tokenizer is None or tokenizer.normalizer is None:
        return set()
    found = set()
    for block in range(0x80, 0x110000, _BLOCK):
        characters = [
            character
            for character in map(chr, range(block, min(block + _BLOCK, 0x110000)))
            if unicodedata.category(character) not in ("Cn", "Co", "Cs")
        ]
        if firsts & set(_normal(tokenizer, " ".join(characters))):
            found |= {c for c in characters if firsts & set(_normal(tokenizer, c))}
    return found
