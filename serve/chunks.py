"""A passage that is too long for a model, in parts that are not, and their scores as one.

Each part is a run of the passage's own characters that ends between two tokens, and is then made
neutral by itself, so its value is what the engine gives for that text alone. The passage's raw
value is that of its best part: relevance is in one place of a long text as a rule (MaxP, Dai and
Callan 2019). Parts overlap, so that a sentence at a border is whole in one of them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.errors import TooLarge
from serve.rerank import Chunk, RawScores, RerankRequest

# Tokens that two neighbouring parts share: an eighth of a part, as much as costs little; and no
# more than 64, in which a sentence fits.
OVERLAP_SHARE = 8
OVERLAP_MOST = 64
CHARS_PER_TOKEN = 5  # a first guess of what holds a part's tokens; twice as much if it does not
_VISIBLE = re.compile(r"\S")


class Reader(Protocol):
    """How a model reads: what `serve.lengths.Lengths` knows."""

    def count(self, texts: Sequence[str]) -> list[int]: ...

    def offsets(self, text: str) -> list[tuple[int, int]]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """The characters `start` to `end` of a passage: as the model reads them, `text` of `tokens`."""

    start: int
    end: int
    text: str
    tokens: int


def parts(
    passage: str, room: int, most: int, reader: Reader, neutral: Callable[[str], str]
) -> Iterator[Part]:
    """The parts of a passage, `most` of them, in each of which are `room` tokens at most.

    They cover the passage from its first character, without gaps. A part is beyond its room only
    where one token's characters are. It takes the time of tokenizing the passage about twice, but
    for what is left over.
    """
    start = end = 0
    for _ in range(most):
        part, onward = _next_part(passage, start, room, reader, neutral)
        if start < end and part.end <= end:  # no room beside what it shares with the last one
            part, onward = _next_part(passage, end, room, reader, neutral)
        yield part
        start, end = onward, part.end
        if not is_left_over(passage, part):
            return


def is_left_over(passage: str, last: Part) -> bool:
    """Whether something of the passage stands behind its last part."""
    return _VISIBLE.search(passage, last.end) is not None


def _next_part(
    passage: str, start: int, room: int, reader: Reader, neutral: Callable[[str], str]
) -> tuple[Part, int]:
    """The part that begins at `start`, and where the next one does (at the end: nowhere)."""
    window, offsets = _window(passage, start, room, reader)
    keep = min(room, len(offsets))
    while True:
        end = _end(window, offsets, keep)
        text = neutral(window[:end])
        tokens = len(offsets) if text == window else reader.count([text])[0]
        if tokens <= room or keep <= 1:
            break
        # The text alone gives more tokens than within the passage, or was made longer.
        keep = max(1, min(keep - 1, keep * room // tokens))
    part = Part(start, start + end, text, tokens)
    if part.end == len(passage):
        return part, part.end
    back = keep - min(keep // OVERLAP_SHARE, OVERLAP_MOST)
    onward = min(offsets[back][0], end) if back < len(offsets) else end
    return part, start + (onward or end)


def _window(
    passage: str, start: int, room: int, reader: Reader
) -> tuple[str, list[tuple[int, int]]]:
    """A run of the passage with more than `room` tokens, or all that is left; and where its tokens
    stand in it."""
    width = CHARS_PER_TOKEN * room
    while True:
        window = passage[start : start + width]
        offsets = reader.offsets(window)
        if len(offsets) > room or start + width >= len(passage):
            return window, offsets
        width *= 2


def _end(window: str, offsets: Sequence[tuple[int, int]], keep: int) -> int:
    """Where the first `keep` tokens end: not within a character of which the next token is too."""
    if keep == len(offsets):
        return len(window)
    return max(1, min(offsets[keep - 1][1], offsets[keep][0]))


def parts_of(
    request: RerankRequest,
    rooms: Mapping[int, int],
    most_pairs: int,
    reader: Reader,
    neutral: Callable[[str], str],
) -> Iterator[tuple[int, Part]]:
    """The parts of the passages that have an entry in `rooms`, by passage index, one by one.

    Raises TooLarge as soon as there are more than `most_pairs` to score.
    """
    pairs = len(request.passages) - len(rooms)
    for index, room in rooms.items():
        for part in parts(request.passages[index], room, request.max_chunks, reader, neutral):
            pairs += 1
            if pairs > most_pairs:
                raise TooLarge(
                    f"{request.fields[1]} come to more than {most_pairs} parts to score, which is"
                    " the limit: lower max_chunks_per_doc, send fewer texts, or raise"
                    " `limits: {passages: …}`.",
                    param=request.fields[1],
                )
            yield index, part


@dataclass(frozen=True, slots=True)
class Split:
    """A request for the engine, with the parts of too long passages in place of those.

    `parts` holds them by the passage's index, of `passages` in all; `cut` the indices of the
    passages that are not read whole all the same.
    """

    request: RerankRequest
    passages: int
    parts: Mapping[int, Sequence[Part]]
    cut: Sequence[int]

    def join(self, raw: RawScores) -> RawScores:
        """One value for each passage: of a split one its best part's, of equals the first's."""
        values: list[float] = []
        chunks: dict[int, Chunk] = {}
        at = 0
        for index in range(self.passages):
            own = self.parts.get(index, (None,))
            found = raw.values[at : at + len(own)]
            at += len(own)
            best = max(range(len(own)), key=found.__getitem__)
            values.append(found[best])
            if (part := own[best]) is not None:
                chunks[index] = Chunk(best, len(own), part.start, part.end)
        return raw._replace(values=values, cut=self.cut, chunks=chunks)


def split(request: RerankRequest, found: Mapping[int, Sequence[Part]], cut: Sequence[int]) -> Split:
    """`request`, whose texts are neutral, with the parts `found` in place of their passages."""
    one = len(request.queries) == 1
    queries: list[str] = list(request.queries) if one else []
    passages: list[str] = []
    for index, passage in enumerate(request.passages):
        texts = [part.text for part in found[index]] if index in found else [passage]
        passages += texts
        if not one:
            queries += [request.queries[index]] * len(texts)
    whole = len(request.passages)
    return Split(request._replace(queries=queries, passages=passages), whole, found, cut)
