"""Which pairs a model cannot read whole, by its own tokenizer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from serve.rerank import RerankRequest

GROWTH = 12  # the most by which normal forms lengthen a character's UTF-8 (U+FDFA: 3 to 33 bytes)
BYTES_PER_CHARACTER = 4  # at most, in UTF-8
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
        self._tokenizer = tokenizer
        self._is_pair = is_pair
        self._specials = tokenizer.num_special_tokens_to_add(is_pair)

    def may_cut_any(
        self, query_chars: int, passage_chars: int, limits: TokenLimits, *, is_ascii: bool
    ) -> bool:
        """Whether a pair of at most so many characters may be cut."""
        most = 1 if is_ascii else GROWTH * BYTES_PER_CHARACTER
        query, passage = most * query_chars + 1, most * passage_chars + 1
        return bool(self.beyond([query], [passage], limits))

    def suspects(self, request: RerankRequest, limits: TokenLimits) -> list[int]:
        """Indices of the pairs that may be cut, from the texts' lengths in bytes alone."""
        queries = [_most_tokens(query) for query in request.queries]
        return self.beyond(queries, [_most_tokens(text) for text in request.passages], limits)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones. It takes the time of tokenizing them, outside
        Python's lock."""
        # One text at a time: a batch would take every core, which are the engine's.
        batches = (
            self._tokenizer.encode_batch_fast([text], add_special_tokens=False) for text in texts
        )
        return [len(batch[0]) for batch in batches]

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


def _most_tokens(text: str) -> int:
    """A bound on a text's tokens: one for each byte of its normal form, and one before it."""
    return len(text) + 1 if text.isascii() else GROWTH * len(text.encode()) + 1
