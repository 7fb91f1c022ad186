"""Which pairs a model cannot read whole, with real tokenizers."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.lengths import SLICE_CHARS, Lengths, TokenLimits, slices
from serve.rerank import RerankRequest
from tests import readers


@pytest.mark.parametrize(
    ("options", "length", "limits"),
    [
        ({}, 9, TokenLimits()),
        ({"truncate_prompt_tokens": -1}, 9, TokenLimits(whole=9)),
        ({"truncate_prompt_tokens": -1}, None, TokenLimits()),
        ({"truncate_prompt_tokens": 5}, 9, TokenLimits(whole=5)),
        ({"max_tokens_per_query": 3, "max_tokens_per_doc": 0}, 9, TokenLimits(query=3)),
        ({"max_tokens_per_doc": 4}, 9, TokenLimits(passage=4)),
    ],
)
def test_limits(options: dict[str, object], length: int | None, limits: TokenLimits):
    assert TokenLimits.of(options, length) == limits


WORD = "learning"  # one token to the embedded model


@pytest.mark.parametrize(
    ("is_pair", "query", "passages", "limits", "cut"),
    [
        (False, 3, [8, 9], TokenLimits(whole=10), [1]),  # with [CLS] and [SEP]
        (False, 9, [1, 1], TokenLimits(whole=10), [0, 1]),
        (True, 3, [4, 5], TokenLimits(whole=10), [1]),  # with [CLS] and two [SEP]
        (True, 3, [5], TokenLimits(), []),
        (True, 3, [5, 2], TokenLimits(passage=4), [0]),
        (True, 3, [5, 2], TokenLimits(query=2), [0, 1]),
        (True, 3, [5, 2], TokenLimits(query=3, passage=5), []),
    ],
)
def test_cut(
    tokenizer_folders: dict[str, Path],
    is_pair: bool,
    query: int,
    passages: list[int],
    limits: TokenLimits,
    cut: list[int],
):
    lengths = readers.lengths(tokenizer_folders["minilm"], is_pair=is_pair)
    texts = [" ".join([WORD] * count) for count in passages]
    request = RerankRequest([" ".join([WORD] * query)], texts)
    suspects = lengths.suspects(request, limits)
    assert set(cut) <= set(suspects)
    counts = lengths.count(request.queries), lengths.count(request.passages)
    assert lengths.beyond(*counts, limits) == cut


def test_short_texts_are_not_counted(tokenizer_folders: dict[str, Path]):
    lengths = readers.lengths(tokenizer_folders["xlm"])
    request = RerankRequest(["q" * 20], ["p" * 20, "é" * 50, "ﷺ" * 20, "p" * 70])
    assert lengths.suspects(request, TokenLimits(whole=90)) == [2, 3]


def test_the_share_of_a_query(tokenizer_folders: dict[str, Path]):
    pair, single = (
        readers.lengths(tokenizer_folders["xlm"], is_pair=is_pair) for is_pair in (True, False)
    )

    def rooms(lengths: Lengths, limits: TokenLimits, queries: Sequence[int]) -> list[float]:
        return [lengths.room(query, limits) for query in queries]

    whole = TokenLimits(whole=104)  # 100 with the special tokens of a pair
    assert rooms(pair, whole, [0, 10, 75, 76, 500]) == [100, 90, 25, 25, 25]
    assert rooms(pair, TokenLimits(whole=104, query=20), [500]) == [80]
    assert rooms(pair, TokenLimits(whole=104, passage=40), [10, 70]) == [40, 30]
    assert rooms(pair, TokenLimits(passage=40), [10_000]) == [40]
    assert rooms(pair, TokenLimits(whole=4), [10]) == [1]
    assert rooms(pair, TokenLimits(), [10]) == [math.inf]
    assert rooms(single, TokenLimits(whole=102), [10, 500]) == [100, 100]


@given(st.lists(st.integers(0, 3 * SLICE_CHARS).map(lambda length: "x" * length), max_size=6))
def test_slices(texts: list[str]):
    parts = list(slices(texts))
    assert [text for part in parts for text in part] == texts
    assert all(sum(map(len, part[:-1])) < SLICE_CHARS for part in parts)
