"""The most tokens that a text can give: never less than a real tokenizer gives."""

import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from serve.bounds import TokenBound
from tests import readers

NAMES = ("xlm", "gemma", "qwen3", "minilm")
# Long normal forms, marks in the wrong order, what composes and what must not, the unassigned.
HARD = (
    "ﷺﷻ㍿ﬁ①½Ａ𝐀각힣ṩΐİßǅé\u0300\u0316\u0327\u0307\u0345\u0f73\u1100\u1161\u11a8\u3099\u0958\u2adc"
)
HARD += "\u200d\ufeff\u00ad\x00\x7f\u0378\U000e0fff\U000f1234\U0010ffff🙂👩‍👩‍👧東☃≮ \t\n　▁ab.<|[]'"


def loaded(folder: Path) -> tuple[Tokenizer, TokenBound]:
    return readers.tokenizer(folder), readers.lengths(folder).bound


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


@given(
    st.text(max_size=40) | st.text(alphabet=HARD, max_size=40),
    st.sampled_from(NAMES),
)
@settings(max_examples=800)
@example("ﷺ" * 9, "xlm")
@example("ṩ\u0327" * 9, "qwen3")
@example("\u0958\u0345\u0316" * 9, "qwen3")
@example("각" * 9, "minilm")
@example("1.a." * 9, "xlm")
def test_no_text_gives_more(tokenizer_folders: dict[str, Path], text: str, name: str):
    tokenizer, bound = loaded(tokenizer_folders[name])
    assert count(tokenizer, text) <= bound(text)


@pytest.mark.parametrize("name", NAMES)
def test_no_character_of_unicode_gives_more(tokenizer_folders: dict[str, Path], name: str):
    tokenizer, bound = loaded(tokenizer_folders[name])
    for block in range(0, 0x110000, 32):
        if not 0xD800 <= block < 0xE000:
            characters = list(map(chr, range(block, block + 32)))
            text = "\u0327".join(characters) + "".join(characters)
            assert count(tokenizer, text) <= bound(text), hex(block)


@pytest.mark.parametrize(
    ("name", "text", "most"),
    [
        ("xlm", "deep learning", 14),
        ("xlm", "深度学习" * 25, 101),  # a token for each character
        ("minilm", "深度学习" * 25, 101),
        ("minilm", "naïve café", 11),
        ("qwen3", "深度学习" * 25, 301),  # one for each byte
        ("gemma", "深度学习" * 25, 301),
        ("gemma", "a b c é", 9),
        ("xlm", "ﷺ", 19),
        ("minilm", "각", 4),
    ],
)
def test_it_is_not_far_above(tokenizer_folders: dict[str, Path], name: str, text: str, most: int):
    assert loaded(tokenizer_folders[name])[1](text) == most


def test_a_tokenizer_that_gives_a_character_two_tokens():
    tokenizer = Tokenizer(models.BPE({".": 0, "▁": 1, "a": 2}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    assert count(tokenizer, ".....") == 10
    assert TokenBound(tokenizer)(".....") >= 10


def test_a_token_of_one_character_that_parts_a_text():
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.add_tokens(["#"])
    assert count(tokenizer, "a#a#a") == 8
    assert TokenBound(tokenizer)("a#a#a") >= 8


@pytest.mark.parametrize(
    ("step", "is_bounded"),
    [
        (normalizers.Replace("``", '"'), True),
        (normalizers.Replace(Regex(" {2,}"), "▁"), True),
        (normalizers.Replace(Regex("[ab]+"), "x"), True),
        (normalizers.Replace("a", "xyz"), True),  # seen in the character alone
        (normalizers.Replace("ab", "xyz"), False),
        (normalizers.Replace(Regex("b*"), "x"), False),  # also where there is none
        (normalizers.Replace(Regex("^"), "x"), False),
        (normalizers.Replace(Regex("[ab]+"), "xy"), False),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Replace("ab", "xyz")]), False),
    ],
)
def test_what_a_normalizer_writes_in_place_of_several_characters(step, is_bounded: bool):
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.normalizer = step
    bound = TokenBound(tokenizer)
    assert math.isfinite(bound("ab")) == is_bounded
    for text in ("ab", "aab", "abab", "``a", "a   b"):
        assert count(tokenizer, text) <= bound(text)
