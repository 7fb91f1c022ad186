"""Which pairs a model cannot read whole, by its own tokenizer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from tokenizers import Tokenizer

from serve.bounds import TokenBound
from serve.errors import InvalidRequest
from serve.rerank import RerankRequest
from serve.words import Words

SLICE_CHARS = 100_000  # tokenized in one go, about 30 ms; looked at word by word in 2
# A part of a passage may have what its query leaves, but this share of the two's room at least.
PASSAGE_SHARE = 1 / 4
_FIELDS = ("max_tokens_per_query", "max_tokens_per_doc", "truncate_prompt_tokens")


class TokenLimits(NamedTuple):
    """The most tokens that are read of a query, of a passage, and of all with special tokens."""

    query: float = math.inf
    passage: float = math.inf
    whole: float = math.inf

    @classmethod
    def of(cls, options: Mapping[str, object], max_model_len: int | None) -> "TokenLimits":
        """Those that vLLM's request fields stand for. Without truncation nothing is cut: vLLM
        refuses what is too long."""
        query, passage, whole = map(options.get, _FIELDS)
        if whole == -1:
            whole = max_model_len
        return cls(_limit(query), _limit(passage), _limit(whole))


def _limit(value: object) -> float:
    return value if isinstance(value, int) and value > 0 else math.inf


class Lengths:
    """Counts tokens. `is_pair`: query and passage stand in one sequence (else, for an embedding
    model, each by itself)."""

    def __init__(self, tokenizer: Tokenizer, *, is_pair: bool) -> None:
        """Raises ValueError for a tokenizer that cannot count."""
        self._tokenizer = tokenizer
        self.bound = TokenBound(tokenizer)
        self._tokens("1.a.")  # raises for a vocabulary with holes
        self.words: Words | None = None
        with suppress(ValueError):  # nothing is known of a word: all is as its characters say
            self.words = Words(tokenizer, self.bound, self._tokens)
        self._is_pair = is_pair
        self.specials = tokenizer.num_special_tokens_to_add(is_pair)

    def may_cut_any(
        self, request: RerankRequest, limits: TokenLimits, *, is_ascii: bool = False
    ) -> bool:
        """Whether a pair may be cut, told from the texts' bounds alone; `is_ascii` says that all
        of them are plain, so that the longest has the highest bound. Also true where it would take
        longer to tell than the event loop may stand still."""
        query, passage = (
            self.bound(max(texts, key=len)) if is_ascii else max(map(self.bound, texts))
            for texts in (request.queries, request.passages)
        )
        if not self.beyond([query], [passage], limits):
            return False
        if sum(map(len, request.passages)) > SLICE_CHARS:
            return True
        return next(self._suspects(request, limits), None) is not None

    def suspects(self, request: RerankRequest, limits: TokenLimits) -> list[int]:
        """Indices of the pairs that may be cut, told from the texts' bounds alone."""
        return list(self._suspects(request, limits))

    def _suspects(self, request: RerankRequest, limits: TokenLimits) -> Iterator[int]:
        """First by the texts' characters; what is beyond those by its words, one by one."""
        queries, passages = (
            list(map(self.bound, texts)) for texts in (request.queries, request.passages)
        )
        places = self.beyond(queries, passages, limits)
        if self.words is None:
            yield from places
            return
        one = self.words.most(request.queries[0]) if len(request.queries) == 1 else None
        for place in places:
            query = self.words.most(request.queries[place]) if one is None else one
            if self.beyond([query], [self.words.most(request.passages[place])], limits):
                yield place

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special ones. To be called by one thread: words that are
        new are known from then on. At worst it takes the time of tokenizing the texts, outside
        Python's lock. Raises ValueError when the tokenizer cannot."""
        return list(map(self.words.count if self.words is not None else self._tokens, texts))

    def _tokens(self, text: str) -> int:
        try:
            # One text at a time: a batch would take every core, which are the engine's. And as a
            # batch, since only that works outside Python's lock.
            return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the tokenizer failed: {error}") from error

    def beyond(
        self, queries: Sequence[float], passages: Sequence[float], limits: TokenLimits
    ) -> list[int]:
        """Places of the pairs that do not fit, from their lengths in tokens; one query or each
        its own."""
        room = limits.whole - self.specials
        if len(queries) == 1:
            queries = [queries[0]] * len(passages)
        return [
            place
            for place, (query, passage) in enumerate(zip(queries, passages, strict=True))
            if query > limits.query
            or passage > limits.passage
            or (query + passage if self._is_pair else max(query, passage)) > room
        ]

    def room(self, query: int, limits: TokenLimits) -> float:
        """The most tokens of a passage that are read along with a query of `query` tokens."""
        room = limits.whole - self.specials
        if self._is_pair and room < math.inf:
            # The longer text is cut first: beside a passage of this share, that is the query.
            room = max(room - min(query, limits.query), int(room * PASSAGE_SHARE))
        return max(1, min(limits.passage, room))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it, in characters. Raises ValueError when the
        tokenizer cannot tell."""
        try:
            # As a batch, since only that works outside Python's lock.
            encodings = self._tokenizer.encode_batch([text], add_special_tokens=False)
            return list(encodings[0].offsets)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the tokenizer failed: {error}") from error

    def refusal(
        self,
        request: RerankRequest,
        index: int,
        query: int,
        passage: int,
        limits: TokenLimits,
        parts: int = 1,
    ) -> InvalidRequest:
        """What is told of a pair that does not fit, when nothing may be cut: its `query` and
        `passage` (or the last of its `parts`) have so many tokens."""
        if query > self._most_of_query(limits):
            one = len(request.queries) == 1
            where = request.fields[0] if one else f"{request.fields[0]}[{index}]"
            reads = f"has {query} tokens, and the model reads {self._most_of_query(limits):.0f}"
            return InvalidRequest(
                f"{where} {reads} of it: shorten it, or let it be cut.", param=where
            )
        where = f"{request.fields[1]}[{index}]"
        room = f"{self.room(query, limits):.0f}"
        if parts > 1:
            words = f"is longer than {parts} parts of {room} tokens: raise max_chunks_per_doc,"
        else:
            words = (
                f"has {passage} tokens, and the model reads {room} of it beside its query: have it"
                " scored in parts (max_chunks_per_doc),"
            )
        return InvalidRequest(f"{where} {words} shorten it, or let it be cut.", param=where)

    def _most_of_query(self, limits: TokenLimits) -> float:
        """The most tokens that are read of a query, however short its passage's share is."""
        room = limits.whole - self.specials
        if self._is_pair and room < math.inf:
            room -= int(room * PASSAGE_SHARE)
        return min(limits.query, room)


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in runs of about `SLICE_CHARS` characters."""
    begin = chars = 0
    for end, text in enumerate(texts, 1):
        chars += len(text)
        if chars >= SLICE_CHARS or end == len(texts):
            yield texts[begin:end]
            begin, chars = end, 0
