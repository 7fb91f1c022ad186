"""Long passages in parts, with real tokenizers; and the parts' values as one."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve.chunks import (
    OVERLAP_MOST,
    OVERLAP_SHARE,
    Part,
    is_left_over,
    parts,
    parts_of,
    split,
)
from serve.errors import TooLarge
from serve.lengths import Lengths
from serve.rerank import Chunk, RawScores, RerankRequest
from serve.specials import Specials
from tests import readers

NAMES = ("xlm", "gemma", "qwen3", "minilm")
WORDS = [
    *"deep learning a of Straße naïve 東京 深度学习 обучение 🙂 ☃ ﷺ ㍿ e\u0301\u0327".split(),
    *"</s> <s> <mask> ＜/s＞ <eos> <|im_end|> [SEP] </think> <unk>".split(),
    *(" ", "  ", "\n", "\n\n\n", "\t", "\x00", "\u200b", "　", "ａｂｃ", "a" * 40, "-", "1.a."),
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join) | st.lists(
    st.sampled_from(WORDS), max_size=40
).map("".join)
MANY = 10_000


def reader(folder: Path) -> tuple[Lengths, Specials]:
    return readers.lengths(folder), readers.specials(folder, "</think>")


def cut_up(folder: Path, text: str, room: int, most: int = MANY) -> list[Part]:
    lengths, specials = reader(folder)
    return list(parts(text, room, most, lengths, specials.neutral))


@given(TEXTS | st.text(max_size=60), st.integers(1, 30), st.sampled_from(NAMES))
@settings(max_examples=400)
@example("ﷺ" * 5, 3, "xlm")
@example("🙂" * 9, 2, "qwen3")
@example("</s>" * 20, 5, "xlm")
@example(" " * 400, 3, "xlm")
@example("\u200b ﷺ ＜/s＞", 19, "xlm")
@example("", 3, "minilm")
def test_parts_cover_the_passage_and_fit(
    tokenizer_folders: dict[str, Path], text: str, room: int, name: str
):
    lengths, specials = reader(tokenizer_folders[name])
    found = cut_up(tokenizer_folders[name], text, room)
    assert found[0].start == 0
    assert not is_left_over(text, found[-1])
    for part, following in pairwise(found):
        assert part.start < following.start <= part.end < following.end <= len(text)
    for part in found:
        assert part.text == specials.neutral(text[part.start : part.end])
        assert lengths.count([part.text]) == [part.tokens]
        assert specials.neutral(part.text) == part.text
        if part.tokens > room:  # what the tokenizer itself has for one token's characters
            alone = text[part.start : part.end]
            assert lengths.count([alone])[0] <= room + 1 or len(alone) == 1


@given(st.integers(20, 200), st.integers(9, 60), st.sampled_from(NAMES))
@settings(max_examples=60)
def test_parts_overlap(tokenizer_folders: dict[str, Path], words: int, room: int, name: str):
    text = " ".join(f"learning deep{index}" for index in range(words))
    found = cut_up(tokenizer_folders[name], text, room)
    for part, following in pairwise(found):
        shared = reader(tokenizer_folders[name])[0].count([text[following.start : part.end]])[0]
        assert 1 <= shared <= min(room // OVERLAP_SHARE, OVERLAP_MOST) + 2  # whole words' pieces


@pytest.mark.parametrize("name", NAMES)
def test_a_passage_that_fits_is_one_part(tokenizer_folders: dict[str, Path], name: str):
    text = "deep learning </s> of 東京"
    lengths, specials = reader(tokenizer_folders[name])
    room = lengths.count([specials.neutral(text)])[0]
    assert [(part.start, part.end) for part in cut_up(tokenizer_folders[name], text, room)] == [
        (0, len(text))
    ]
    assert len(cut_up(tokenizer_folders[name], text, room - 1)) == 2


@pytest.mark.parametrize("most", [1, 2, 3])
def test_there_are_no_more_parts_than_asked_for(tokenizer_folders: dict[str, Path], most: int):
    text = "deep learning " * 100
    found = cut_up(tokenizer_folders["minilm"], text, 50, most)
    assert found == cut_up(tokenizer_folders["minilm"], text, 50)[:most]
    assert is_left_over(text, found[-1])


def test_what_is_left_over_is_not_tokenized(tokenizer_folders: dict[str, Path]):
    class Counting(Lengths):
        chars = 0

        def offsets(self, text: str) -> list[tuple[int, int]]:
            self.chars += len(text)
            return super().offsets(text)

    lengths = Counting(readers.tokenizer(tokenizer_folders["minilm"]), is_pair=False)
    found = list(parts("deep learning " * 70_000, 50, 3, lengths, str))
    assert len(found) == 3
    assert lengths.chars < 10_000


# -- whole requests --------------------------------------------------------------------------------


def part(start: int, end: int, text: str = "t") -> Part:
    return Part(start, end, text, 1)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_the_best_part_gives_the_value(counts: list[int], random, one_query: bool):
    passages = [f"p{index}" for index in range(len(counts))]
    queries = ["q"] if one_query else [f"q{index}" for index in range(len(counts))]
    found = {
        index: [part(10 * n, 10 * n + 12, f"p{index}.{n}") for n in range(count)]
        for index, count in enumerate(counts)
        if count
    }
    done = split(RerankRequest(queries, passages), found, [0])
    asked = done.request
    one_query = len(asked.queries) == 1  # also where there is but one pair
    each = list(asked.queries) * (len(asked.passages) if one_query else 1)
    pairs = list(zip(each, asked.passages, strict=True))
    values = [float(random.randrange(4)) for _ in pairs]
    raw = done.join(RawScores(values, 7, cut=[99]))
    by_passage: dict[int, list[float]] = defaultdict(list)
    for (query, text), value in zip(pairs, values, strict=True):
        index = int(text[1:].split(".")[0])
        assert one_query or query == f"q{index}"
        by_passage[index].append(value)
    assert list(raw.values) == [max(by_passage[index]) for index in range(len(counts))]
    assert (raw.prompt_tokens, raw.cut) == (7, [0])
    assert set(raw.chunks) == set(found)
    for index, chunk in raw.chunks.items():
        best = by_passage[index].index(max(by_passage[index]))  # the first of equals
        assert chunk == Chunk(best, counts[index], 10 * best, 10 * best + 12)


def test_too_many_parts_are_told_before_they_are_made(tokenizer_folders: dict[str, Path]):
    lengths, specials = reader(tokenizer_folders["minilm"])
    request = RerankRequest(
        ["q"], ["short", "deep learning " * 50], max_chunks=50, fields=("query", "documents")
    )
    rooms = {1: 10}
    needed = 1 + len(list(parts(request.passages[1], 10, 50, lengths, str)))
    assert len(list(parts_of(request, rooms, needed, lengths, specials.neutral))) == needed - 1
    with pytest.raises(TooLarge, match="lower max_chunks_per_doc") as error:
        list(parts_of(request, rooms, needed - 1, lengths, specials.neutral))
    assert error.value.param == "documents"
