"""What a model's tokenizer makes of texts: special tokens in them, and whether they fit.

The tokenizer reads `</s>` in a passage as its end-of-sequence token, so a text could end its
sequence, open another or forge an instruction. `neutral` breaks such text up with a space, after
its first character: the words stay readable and the prompt keeps the structure that it was given.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from serve.rerank import RerankRequest

# Where a model has no tokenizer.json to read: what the special tokens of most models look like.
USUAL_SPECIALS = (
    "<s> </s> <pad> <unk> <mask> <bos> <eos> [CLS] [SEP] [PAD] [UNK] [MASK] <|im_start|> <|im_end|>"
    " <|endoftext|> <|begin_of_text|> <|end_of_text|> <|eot_id|> <start_of_turn> <end_of_turn>"
).split()


class Specials:
    """The texts that a tokenizer takes for special tokens, and how to break them up."""

    def __init__(self, plain: Iterable[str], normalized: Iterable[str] = ()) -> None:
        """`normalized` are those that are looked for in the text's normal form."""
        plain, normalized = list(plain), list(normalized)
        self._plain = _pattern(plain, 0)
        self._normalized = _pattern(normalized, re.IGNORECASE)
        # Most texts hold not even the first character of one, which is found out at once.
        firsts = {token[0] for token in (*plain, *normalized)}
        self._firsts = {case for first in firsts for case in (first.lower(), first.upper())}

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str = "") -> "Specials":
        """Those of a tokenizer, and what else it reads as one token and the template is made of."""
        found = [
            token
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.content.strip() and (token.special or token.content in template)
        ]
        return cls(
            [token.content for token in found],
            [token.content for token in found if token.normalized],
        )

    def neutral(self, text: str) -> str:
        """The text with no special token in it; the same object when it has none."""
        is_literal = self._normalized is None or text.isascii()
        if is_literal and not any(first in text for first in self._firsts):
            return text
        text = _broken(self._plain, text)
        if is_literal or self._normalized is None:
            return _broken(self._normalized, text)
        folded = unicodedata.normalize("NFKC", text)  # a full-width ＜mask＞ is a <mask> to some
        return _broken(self._normalized, folded) if self._normalized.search(folded) else text

    def neutral_request(self, request: RerankRequest) -> RerankRequest:
        """The request with no special token in any of its texts: queries, passages, instruction."""
        return replace(
            request,
            queries=[self.neutral(text) for text in request.queries],
            passages=[self.neutral(text) for text in request.passages],
            options={name: self._neutral_option(value) for name, value in request.options.items()},
        )

    def _neutral_option(self, value: object) -> object:
        if isinstance(value, str):
            return self.neutral(value)
        if isinstance(value, Mapping):
            return {key: self._neutral_option(item) for key, item in value.items()}
        return value


def _pattern(tokens: Iterable[str], flags: int) -> re.Pattern[str] | None:
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), flags) if longest_first else None


def _broken(pattern: re.Pattern[str] | None, text: str) -> str:
    """The text with a space in each match. Matches may overlap, hence the repetition; it ends,
    since each round destroys the matches that it finds and only adds spaces."""
    while pattern is not None and pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][:1]} {match[0][1:]}", text)
    return text


class Lengths:
    """Which pairs a model cannot read whole, by its own tokenizer.

    `is_pair`: query and passage stand in one sequence (else, for an embedding model, each by
    itself).
    """

    def __init__(self, tokenizer: Tokenizer, *, is_pair: bool) -> None:
        self._tokenizer = tokenizer
        self._is_pair = is_pair
        self._specials = tokenizer.num_special_tokens_to_add(is_pair)

    def suspects(self, request: RerankRequest, limits: "TokenLimits") -> list[int]:
        """Indices of the pairs that may be cut, from the texts' lengths in bytes alone."""
        queries, passages = map(_most_tokens, request.queries), map(_most_tokens, request.passages)
        return self._beyond(list(queries), list(passages), limits)

    def cut(
        self, request: RerankRequest, suspects: Sequence[int], limits: "TokenLimits"
    ) -> list[int]:
        """Those of the pairs `suspects` that are cut. It takes the time of tokenizing them."""
        one = len(request.queries) == 1
        queries = self._count(
            request.queries if one else [request.queries[index] for index in suspects]
        )
        passages = self._count([request.passages[index] for index in suspects])
        return [suspects[place] for place in self._beyond(queries, passages, limits)]

    def _count(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encoded]

    def _beyond(
        self, queries: Sequence[int], passages: Sequence[int], limits: "TokenLimits"
    ) -> list[int]:
        """Places of the pairs that do not fit, from their lengths in tokens."""
        room = limits.whole - self._specials
        if len(queries) == 1:
            queries = [queries[0]] * len(passages)
        return [
            place
            for place, (query, passage) in enumerate(zip(queries, passages, strict=True))
            if query > limits.query
            or passage > limits.passage
            or (query + passage if self._is_pair else max(query, passage)) > room
        ]


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """The most tokens that are read of a query, of a passage, and of all with special tokens."""

    query: float = math.inf
    passage: float = math.inf
    whole: float = math.inf

    @classmethod
    def of(cls, options: Mapping[str, object], max_model_len: int | None) -> "TokenLimits":
        """Those that vLLM's request fields stand for. Without truncation nothing is cut: vLLM
        refuses what is too long."""
        whole = options.get("truncate_prompt_tokens")
        if whole == -1:
            whole = max_model_len
        return cls(
            query=_limit(options.get("max_tokens_per_query")),
            passage=_limit(options.get("max_tokens_per_doc")),
            whole=_limit(whole),
        )


def _limit(value: object) -> float:
    return value if isinstance(value, int) and value > 0 else math.inf


def _most_tokens(text: str) -> int:
    """A bound on a text's tokens: one for each byte of its normal form, and one before it."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return len(text.encode()) + 1


def load(file: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, neither cutting nor padding."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
