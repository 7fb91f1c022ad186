"""A text's tokens by its words: what the real tokenizers give, and never less than that."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from serve.bounds import TokenBound
from serve.lengths import Lengths, TokenLimits
from serve.rerank import RerankRequest
from serve.words import LONGEST_TEXT, MOST_KNOWN, NEW_AT_ONCE, Words
from tests import readers
from tests.test_bounds import HARD, count
from tests.tiny_models import WORDS

SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u3000\u200b\u200d\u0301"
PIECES = [*WORDS, "learning,", "(deep", "<s>", "</s>", "<mask>", "[SEP]", "don't", "a", "▁", "2026"]


def words_of(tokenizer: Tokenizer) -> Words:
    return Words(tokenizer, TokenBound(tokenizer), lambda text: count(tokenizer, text))


def changed(
    folder: Path,
    normalizer: Callable[[normalizers.Normalizer], normalizers.Normalizer] = lambda same: same,
    pieces: Callable[[], object] | None = None,
) -> Tokenizer:
    """The tokenizer in a folder with another normalizer, or parted another way."""
    tokenizer = Tokenizer.from_str(readers.tokenizer(folder).to_str())
    tokenizer.normalizer = normalizer(tokenizer.normalizer)
    if pieces is not None:
        tokenizer.pre_tokenizer = pieces()
    return tokenizer


def kinds(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    """The encoders' tokenizers, as they are found in models."""
    xlm = folders["xlm"]
    return {
        "minilm": readers.tokenizer(folders["minilm"]),
        "metaspace": readers.tokenizer(xlm),
        "split, then metaspace": changed(
            xlm,
            pieces=lambda: pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
            ),
        ),
        "runs of spaces are one": changed(
            xlm, lambda own: normalizers.Sequence([own, normalizers.Replace(Regex(" {2,}"), " ")])
        ),
        "ends are stripped": changed(
            xlm,
            lambda own: normalizers.Sequence(
                [own, normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")]
            ),
        ),
    }


KINDS = (
    "minilm",
    "metaspace",
    "split, then metaspace",
    "runs of spaces are one",
    "ends are stripped",
)
READ: dict[str, tuple[Tokenizer, Words]] = {}


def read(folders: dict[str, Path], kind: str) -> tuple[Tokenizer, Words]:
    """A tokenizer and what is known of its words: of the first half of PIECES."""
    if not READ:
        for name, tokenizer in kinds(folders).items():
            words = words_of(tokenizer)
            for piece in PIECES[::2]:
                words.count(piece)
            READ[name] = tokenizer, words
    return READ[kind]


@given(
    st.lists(
        st.sampled_from(PIECES)
        | st.text(alphabet=SPACES, min_size=1, max_size=3)
        | st.text(alphabet=HARD, max_size=5)
        | st.text(max_size=5)
    ),
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(KINDS),
)
@settings(max_examples=1_500)
@example(["ab", "\x1c", "cd"], "", "minilm")
@example(["deep", " " * 30, "deep"], "", "metaspace")
@example(["<mask>", "deep"] * 9, " ", "metaspace")
@example(["¨a", "´", "b¯"], " ", "metaspace")
def test_any_text(tokenizer_folders: dict[str, Path], pieces: list[str], between: str, kind: str):
    tokenizer, words = read(tokenizer_folders, kind)
    text = between.join(pieces)
    tokens = count(tokenizer, text)
    assert words.most(text) >= tokens  # some words are known, and others not
    assert words.count(text) == tokens
    assert words.most(text) >= tokens


@pytest.mark.parametrize("kind", KINDS)
def test_known_words_are_told_to_the_token(tokenizer_folders: dict[str, Path], kind: str):
    tokenizer = kinds(tokenizer_folders)[kind]
    words = words_of(tokenizer)
    source = random.Random(4)
    plain = [word for word in PIECES if word.isascii()]
    texts = [" ".join(source.choices(plain[:20], k=60)) for _ in range(50)]
    assert all(words.most(text) > 1.2 * count(tokenizer, text) for text in texts)
    tokens = [count(tokenizer, text) for text in texts]
    assert [words.count(text) for text in texts] == tokens
    assert [words.most(text) for text in texts] == tokens
    plain = words.most("deep learning")
    assert words.most("deep \n\n learning") - plain == (3 if kind == "metaspace" else 0)
    at_ends = kind in ("metaspace", "runs of spaces are one")
    assert words.most(" deep learning\n") - plain == (2 if at_ends else 0)


@pytest.mark.parametrize("name", ["gemma", "qwen3"])
def test_a_tokenizer_that_reads_across_words(tokenizer_folders: dict[str, Path], name: str):
    with pytest.raises(ValueError, match="words"):
        words_of(readers.tokenizer(tokenizer_folders[name]))
    assert readers.lengths(tokenizer_folders[name]).words is None


@pytest.mark.parametrize(
    ("normalizer", "pieces"),
    [
        (lambda own: normalizers.Replace("a b", "ab"), None),
        (lambda own: normalizers.Replace(" ", ""), None),
        (lambda own: normalizers.Prepend("x"), None),
        (lambda own: own, lambda: pre_tokenizers.Metaspace(prepend_scheme="first")),
        (lambda own: own, lambda: pre_tokenizers.Metaspace(split=False)),
        (lambda own: own, lambda: pre_tokenizers.ByteLevel()),
        (lambda own: own, lambda: pre_tokenizers.Punctuation()),
    ],
)
def test_others_that_do(tokenizer_folders: dict[str, Path], normalizer, pieces):
    with pytest.raises(ValueError, match="words"):
        words_of(changed(tokenizer_folders["xlm"], normalizer, pieces))


def test_a_token_of_two_words(tokenizer_folders: dict[str, Path]):
    tokenizer = changed(tokenizer_folders["xlm"])
    tokenizer.add_tokens(["deep learning"])
    with pytest.raises(ValueError, match="words"):
        words_of(tokenizer)


def test_what_is_known_is_bounded(tokenizer_folders: dict[str, Path]):
    asked: list[str] = []

    def counted(text: str) -> int:
        asked.append(text)
        return 1

    words = Words(readers.tokenizer(tokenizer_folders["minilm"]), len, counted)
    for text in ("x" * 49, "東京 deep", "a\x00", "[SEP]", "a\x1cb"):  # too long, and not plain
        asked.clear()
        words.count(text)
        assert asked[-1] == text  # as a whole
        assert words.most(text) == len(text) - text.count(" ") - text.count("deep") * 3
    long = "a " * (LONGEST_TEXT // 2 + 1)
    assert words.most(long) == len(long)  # which takes no longer than it may
    words.count(long)
    assert asked[-1] == long
    many = [f"w{number}" for number in range(MOST_KNOWN)]
    asked.clear()
    whole = " ".join(many[: 2 * NEW_AT_ONCE])
    words.count(whole)
    assert (len(asked), asked[-1]) == (NEW_AT_ONCE + 1, whole)  # the rest another time
    for start in range(0, len(many), NEW_AT_ONCE):
        words.count(" ".join(many[start : start + NEW_AT_ONCE]))
    assert words.most(many[0]) == 1
    assert words.count(f"{many[0]} {many[-1]} new") == 3  # it starts anew
    assert words.most(many[0]) == 1
    assert words.most(many[1]) == len(many[1])  # it was forgotten


def test_who_is_measured_once_is_no_suspect_again(tokenizer_folders: dict[str, Path]):
    tokenizer = readers.tokenizer(tokenizer_folders["minilm"])
    lengths = Lengths(tokenizer, is_pair=True)
    request = RerankRequest(["deep learning"], ["learning " * 9, "learning " * 12, "learning"])
    limits = TokenLimits(whole=15)  # 10 beside two of the query and three special tokens
    assert lengths.suspects(request, limits) == [0, 1, 2]
    assert lengths.may_cut_any(request, limits, is_ascii=True)
    assert lengths.count(request.queries) == [2]
    assert lengths.count(request.passages) == [9, 12, 1]
    assert lengths.suspects(request, limits) == [1]
    assert lengths.may_cut_any(request, limits, is_ascii=True)
    short = RerankRequest(request.queries, request.passages[:1])
    assert not lengths.may_cut_any(short, limits, is_ascii=True)
