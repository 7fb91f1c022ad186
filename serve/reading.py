"""How one model reads texts: what is done with them before the engine, and beside it.

Tokenizing takes time, so it happens in a thread (the library works outside Python's lock), and no
more of it than must be.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from serve.chunks import Part, Split, is_left_over, parts_of, split
from serve.errors import InternalError, InvalidRequest
from serve.lengths import SLICE_CHARS, Lengths, TokenLimits, slices
from serve.rerank import RerankRequest
from serve.specials import USUAL_SPECIALS, Specials
from serve.texts import texts_of, with_texts
from serve.tokens import load

log = logging.getLogger(__name__)

T = TypeVar("T")

PARTS_AT_ONCE = 200  # made in one go, about 30 ms where each is short
_NO_END = 10**9  # tokens: the room of a passage that nothing limits


class Reading:
    """What is known of how a model reads, which is little until its tokenizer is here."""

    def __init__(self, max_model_len: int | None = None) -> None:
        self.max_model_len = max_model_len
        self.specials = Specials(USUAL_SPECIALS)
        self.lengths: Lengths | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    async def learn(self, file: Path, template: str, *, is_pair: bool) -> None:
        """Takes the tokenizer in a `tokenizer.json`. Raises ValueError when it cannot be used.

        `template` is the model's prompt template, `is_pair` as in `Lengths`.
        """
        self.specials, self.lengths = await self._run(lambda: _learn(file, template, is_pair))

    def check(self, request: RerankRequest) -> None:
        """Raises InvalidRequest for what cannot be done with this model's tokenizer, or without."""
        limits = self._limits(request)
        if self.lengths is not None and limits.whole <= self.lengths.specials + 1:
            least = self.lengths.specials + 2
            raise InvalidRequest(
                f"truncate_prompt_tokens leaves no room for a query and a passage beside"
                f" {self.lengths.specials} special tokens: send {least} at least.",
                param="truncate_prompt_tokens",
            )
        if self.lengths is None and request.max_chunks > 1 and _is_long(request, limits):
            raise InvalidRequest(
                "max_chunks_per_doc: this model's tokenizer is not known, so an over-long text"
                " cannot be split for it: send 1, or split the text yourself.",
                param="max_chunks_per_doc",
            )

    def needs_a_look(self, request: RerankRequest) -> bool:
        """Whether a special token may be in a text, or a pair may be cut; mostly not.

        It is told from all texts as one and from their greatest lengths, in microseconds.
        """
        whole = "\n".join(texts_of(request))
        is_ascii = whole.isascii()
        if not is_ascii and len(whole) > SLICE_CHARS:
            return True  # which takes longer to tell than the event loop may stand still
        if self.specials.could_hold(whole):
            return True
        return self.lengths is not None and self.lengths.may_cut_any(
            request, self._limits(request), is_ascii=is_ascii
        )

    async def neutral(self, request: RerankRequest) -> RerankRequest:
        """The request with nothing in its texts that becomes a special token."""
        specials = self.specials
        suspects = await self._run(lambda: _suspects(specials, request))
        texts: dict[str, str] = {}
        for part in slices(suspects):  # between them it can be cancelled
            texts |= await self._run(partial(_neutral, specials, part))
        return with_texts(request, texts) if texts else request

    async def cut(self, request: RerankRequest) -> list[int]:
        """Indices of the pairs that the engine cuts; `request.options` are what it is sent."""
        if self.lengths is None:
            return []
        try:
            return list(await self._too_long(self.lengths, request))
        except ValueError as error:
            log.warning("nobody is told which passages are cut: %s", error)
            return []

    async def refuse_cuts(self, request: RerankRequest) -> None:
        """Raises InvalidRequest for the first pair that the engine would cut."""
        if self.lengths is None:
            return  # the engine itself is told to refuse it
        with _mapped_errors():
            too_long = await self._too_long(self.lengths, request)
        for index, (query, passage) in too_long.items():
            limits = self._limits(request)
            raise self.lengths.refusal(request, index, query, passage, limits)

    async def split(self, request: RerankRequest, neutral: RerankRequest, most_pairs: int) -> Split:
        """`neutral`, which is `request` with neutral texts, with too long passages in parts.

        Raises TooLarge when that comes to more than `most_pairs`, and InvalidRequest when text is
        left over that may not be.
        """
        if self.lengths is None:  # `check` has let no long text pass
            return split(neutral, {}, ())
        lengths, limits = self.lengths, self._limits(request)
        with _mapped_errors():
            queries = await self._queries(lengths, neutral)
            rooms = {i: int(min(lengths.room(n, limits), _NO_END)) for i, n in queries.items()}
            work = parts_of(request, rooms, most_pairs, lengths, self.specials.neutral)
            found: dict[int, list[Part]] = {index: [] for index in rooms}
            while some := await self._run(lambda: _some(work)):  # between them it can be cancelled
                for index, part in some:
                    found[index].append(part)
        cut = []
        for index, own in found.items():
            beyond = lengths.beyond([queries[index]], [part.tokens for part in own], limits)
            if beyond or is_left_over(request.passages[index], own[-1]):
                cut.append(index)
                if not request.may_cut:
                    query, last = queries[index], own[-1].tokens
                    raise lengths.refusal(request, index, query, last, limits, parts=len(own))
        return split(neutral, {i: own for i, own in found.items() if len(own) > 1}, cut)

    async def _too_long(
        self, lengths: Lengths, request: RerankRequest
    ) -> Mapping[int, tuple[int, int]]:
        """The tokens of query and passage, by index, of the pairs that the engine would cut."""
        queries = await self._queries(lengths, request)
        passages = await self._count(lengths, [request.passages[index] for index in queries])
        pairs = list(zip(queries.values(), passages, strict=True))
        places = lengths.beyond(list(queries.values()), passages, self._limits(request))
        suspects = list(queries)
        return {suspects[place]: pairs[place] for place in places}

    async def _queries(self, lengths: Lengths, request: RerankRequest) -> Mapping[int, int]:
        """The tokens of each query, by index, of the pairs that may be too long."""
        limits = self._limits(request)
        suspects = await self._run(lambda: lengths.suspects(request, limits))
        if len(request.queries) > 1:
            texts = [request.queries[index] for index in suspects]
            return dict(zip(suspects, await self._count(lengths, texts), strict=True))
        counts = await self._count(lengths, request.queries if suspects else [])
        return dict(zip(suspects, counts * len(suspects), strict=True))

    async def _count(self, lengths: Lengths, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for part in slices(texts):  # between them it can be cancelled
            counts += await self._run(partial(lengths.count, part))
        return counts

    def _limits(self, request: RerankRequest) -> TokenLimits:
        return TokenLimits.of(request.options, self.max_model_len)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Ends the thread, when it is done with what it does."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _is_long(request: RerankRequest, limits: TokenLimits) -> bool:
    """Whether a pair may be too long, where no tokenizer is known: by the bytes of its texts."""
    query, passage = (
        max(len(text.encode("utf-8", "replace")) for text in texts)
        for texts in (request.queries, request.passages)
    )
    most = min(limits.whole, limits.passage)
    return math.isinf(most) or query + passage > most


def _suspects(specials: Specials, request: RerankRequest) -> list[str]:
    """The texts that a special token may stand in."""
    return list({text for text in texts_of(request) if specials.could_hold(text)})


def _some(work: Iterator[tuple[int, Part]]) -> list[tuple[int, Part]]:
    """The next parts, of `SLICE_CHARS` characters or so; none when there are no more."""
    some: list[tuple[int, Part]] = []
    chars = 0
    for index, part in work:
        some.append((index, part))
        chars += len(part.text)
        if chars >= SLICE_CHARS or len(some) == PARTS_AT_ONCE:
            break
    return some


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Maps what a tokenizer cannot do, where it must be known, to our exception."""
    try:
        yield
    except ValueError as error:
        raise InternalError(
            f"The texts' tokens cannot be counted ({error}): let texts be cut, and send no"
            " max_chunks_per_doc."
        ) from error


def _neutral(specials: Specials, texts: Sequence[str]) -> dict[str, str]:
    """Those of the texts that special tokens stand in, and what takes their place."""
    neutral = {text: specials.neutral(text) for text in texts}
    return {text: other for text, other in neutral.items() if other is not text}


def _learn(file: Path, template: str, is_pair: bool) -> tuple[Specials, Lengths]:
    tokenizer = load(file)
    try:
        return Specials.of(tokenizer, template), Lengths(tokenizer, is_pair=is_pair)
    except ValueError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file}: {error}") from error
