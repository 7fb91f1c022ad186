"""Which pairs a model cannot read whole, by its own tokenizer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer

from serve.rerank import RerankRequest

GROWTH = 33  # the most bytes of a character's normal form in UTF-8 (U+FDFA has them)
SLICE_CHARS = 100_000  # tokenized in one go, about 30 ms


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


class Lengths:
    """Counts tokens. `is_pair`: query and passage stand in one sequence (else, for an embedding
    model, each by itself)."""

    def __init__(self, tokenizer: Tokenizer, *, is_pair: bool) -> None:
        """Raises ValueError for a tokenizer that cannot count."""
        self._tokenizer = tokenizer
        # Most give a character one token; those that prefix each piece of a word give it two.
        self._most_each = 1 if self.count(["1.a." * 16])[0] <= 4 * 16 + 1 else 2
        self._is_pair = is_pair
        self._specials = tokenizer.num_special_tokens_to_add(is_pair)

    def may_cut_any(
        self, query_chars: int, passage_chars: int, limits: TokenLimits, *, is_ascii: bool
    ) -> bool:
        """Whether a pair of at most so many characters may be cut."""
        query, passage = self._bound(query_chars, is_ascii), self._bound(passage_chars, is_ascii)
        return bool(self.beyond([query], [passage], limits))

    def suspects(self, request: RerankRequest, limits: TokenLimits) -> list[int]:
        """Indices of the pairs that may be cut, from the texts' lengths alone."""
        queries, passages = (
            [self._bound(len(text), text.isascii()) for text in texts]
            for texts in (request.queries, request.passages)
        )
        return self.beyond(queries, passages, limits)

    def _bound(self, chars: int, is_ascii: bool) -> int:
        """The most tokens that so many characters can give: one (or two) for each byte of their
        normal form, and one before them."""
        return self._most_each * chars * (1 if is_ascii else GROWTH) + 1

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones. It takes the time of tokenizing them, outside
        Python's lock. Raises ValueError when the tokenizer cannot."""
        encode = partial(self._tokenizer.encode_batch_fast, add_special_tokens=False)
        try:
            # One text at a time: a batch would take every core, which are the engine's.
            return [len(encode([text])[0]) for text in texts]
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the tokenizer failed: {error}") from error

    def beyond(
        self, queries: Sequence[int], passages: Sequence[int], limits: TokenLimits
    ) -> list[int]:
        """Places of the pairs that do not fit, from their lengths in tokens; one query or each
        its own."""
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


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in runs of about `SLICE_CHARS` characters."""
    begin = chars = 0
    for end, text in enumerate(texts, 1):
        chars += len(text)
        if chars >= SLICE_CHARS or end == len(texts):
            yield texts[begin:end]
            begin, chars = end, 0
