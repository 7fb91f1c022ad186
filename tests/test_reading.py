"""How a model reads, off the event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers

from serve.lengths import SLICE_CHARS
from serve.reading import Reading
from serve.rerank import RerankRequest

LIMITED = {"truncate_prompt_tokens": -1}


def run(folder: Path, story: Callable[[Reading], Awaitable[None]]) -> None:
    async def told() -> None:
        reading = Reading(64)
        await reading.learn(folder / "tokenizer.json", "", is_pair=True)
        try:
            await story(reading)
        finally:
            reading.close()

    asyncio.run(told())


def test_texts_are_neutral_and_what_is_cut_is_told(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        request = RerankRequest(["deep </s>"], ["a", "</s>", "b " * 100])
        neutral = await reading.neutral(request)
        assert (neutral.queries, neutral.passages) == (["deep < /s>"], ["a", "< /s>", "b " * 100])
        assert await reading.cut(replace(request, options=LIMITED)) == [2]
        assert await reading.cut(replace(request, options={})) == []
        plain = RerankRequest(["q"], ["a", "b"])
        assert await reading.neutral(plain) is plain

    run(tokenizer_folders["xlm"], story)


@pytest.mark.parametrize(
    ("query", "passage", "needed"),
    [
        ("q", "p" * 50, False),
        ("q", "p" * 70, True),  # 64 tokens at most
        ("q" * 40, "p" * 40, True),
        ("q", "é" * 40, True),
        ("q", "a < b", True),
        ("</s>", "p", True),
        ("q", "［＜", True),
    ],
)
def test_what_needs_a_look(
    tokenizer_folders: dict[str, Path], query: str, passage: str, needed: bool
):
    async def story(reading: Reading) -> None:
        request = RerankRequest([query], ["a", passage, "b"], options=LIMITED)
        assert reading.needs_a_look(request) == needed

    run(tokenizer_folders["xlm"], story)


def test_each_pair_has_its_own_query(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        long = "deep learning " * 20
        request = RerankRequest(["q", long, "q"], ["p", long, long])
        assert await reading.cut(replace(request, options=LIMITED)) == [1]

    run(tokenizer_folders["minilm"], story)


def test_before_the_tokenizer_is_known_nothing_is_said_to_be_cut():
    async def story() -> None:
        reading = Reading(8)
        assert await reading.cut(RerankRequest(["q"], ["a " * 100], options=LIMITED)) == []
        neutral = await reading.neutral(RerankRequest(["q"], ["</s>"]))
        assert neutral.passages == ["< /s>"]
        reading.close()

    asyncio.run(story())


@pytest.mark.parametrize("name", ["xlm", "minilm"])
def test_the_event_loop_goes_on_meanwhile(tokenizer_folders: dict[str, Path], name: str):
    """Hostile texts: runs of combining marks, and what must be tokenized to be judged."""
    marks = "a" + "\u0300\u0316" * 100_000
    hard = ["é<" * 100_000, "[é " * 100_000, "<" + marks, "[" + marks]

    async def story(reading: Reading) -> None:
        longest, last = 0.0, time.perf_counter()

        async def watch() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now

        watching = asyncio.create_task(watch())
        request = RerankRequest(["q"], hard, options=LIMITED)
        await reading.cut(await reading.neutral(request))
        watching.cancel()
        assert longest < 2, "the event loop stood still"  # it would for minutes

    run(tokenizer_folders[name], story)


def test_counting_can_be_cancelled(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        request = RerankRequest(["q"], ["deep learning " * SLICE_CHARS] * 50)
        task = asyncio.create_task(reading.cut(replace(request, options=LIMITED)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(tokenizer_folders["minilm"], story)


@pytest.mark.parametrize("text", ["", "{}", "[", '{"version": "1.0", "model": {"type": "New"}}'])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        run(tmp_path, lambda reading: asyncio.sleep(0))


def test_a_tokenizer_with_a_hole_in_its_vocabulary(tmp_path: Path):
    Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: WordLevel error"):
        run(tmp_path, lambda reading: asyncio.sleep(0))


def test_the_other_file_does_not_change_what_is_known(
    tokenizer_folders: dict[str, Path], tmp_path: Path
):
    """A token's own flags stay: `<mask>` is looked for in the normal form."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folders["qwen3"] / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_special_tokens([AddedToken("<mask>", normalized=True, special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    added = '{"added_tokens_decoder": {"9": {"content": "<mask>", "special": true}}}'
    (tmp_path / "tokenizer_config.json").write_text(added)

    async def story(reading: Reading) -> None:
        neutral = await reading.neutral(RerankRequest(["q"], ["a ＜mask＞ b"]))
        assert neutral.passages == ["a ＜ mask＞ b"]

    run(tmp_path, story)


def test_special_tokens_that_only_transformers_file_names(
    tokenizer_folders: dict[str, Path], tmp_path: Path
):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((tokenizer_folders["minilm"] / file).read_bytes())
    config = tmp_path / "tokenizer_config.json"
    added = '{"added_tokens_decoder": {"9": {"content": "<ours>", "special": true}}}'
    config.write_text(added)

    async def story(reading: Reading) -> None:
        neutral = await reading.neutral(RerankRequest(["q"], ["<ours>"]))
        assert neutral.passages == ["< ours>"]

    run(tmp_path, story)
