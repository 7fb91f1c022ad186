"""How a model reads, off the event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers

from serve.errors import InvalidRequest, TooLarge
from serve.lengths import SLICE_CHARS
from serve.reading import Reading
from serve.rerank import RerankRequest
from tests import readers

LIMITED = {"truncate_prompt_tokens": -1}


def run(
    folder: Path, story: Callable[[Reading], Awaitable[None]], *, is_learnt: bool = True
) -> None:
    """Tells a story of a model whose tokenizer is in `folder`, and learnt before it, or in it."""

    async def told() -> None:
        reading = Reading(64)
        if is_learnt:
            reading.specials, reading.lengths = readers.specials(folder), readers.lengths(folder)
        else:
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
        assert await reading.cut(request._replace(options=LIMITED)) == [2]
        assert await reading.cut(request._replace(options={})) == []
        plain = RerankRequest(["q"], ["a", "b"])
        assert await reading.neutral(plain) is plain

    run(tokenizer_folders["xlm"], story)


@pytest.mark.parametrize(
    ("query", "passage", "needed"),
    [
        ("q", "p" * 50, False),
        ("q", "p" * 70, True),  # 64 tokens at most
        ("q" * 40, "p" * 40, True),
        ("q", "é" * 40, False),
        ("q", "東" * 50, False),
        ("q", "東" * 70, True),
        ("q", "ﷺ" * 9, True),
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
        assert await reading.cut(request._replace(options=LIMITED)) == [1]

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
        neutral = await reading.neutral(request)
        await reading.cut(neutral)
        await reading.split(request._replace(max_chunks=2000), neutral, 10_000)
        watching.cancel()
        assert longest < 2, "the event loop stood still"  # it would for minutes

    run(tokenizer_folders[name], story)


def test_counting_can_be_cancelled(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        request = RerankRequest(["q"], ["deep learning " * SLICE_CHARS] * 50)
        task = asyncio.create_task(reading.cut(request._replace(options=LIMITED)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(tokenizer_folders["minilm"], story)


# -- in parts --------------------------------------------------------------------------------------


def test_long_passages_are_split_and_the_rest_is_left(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        long = "deep learning </s> " * 30 + "bread oven"
        request = RerankRequest(
            ["rank"], ["a </s>", long, "b"], max_chunks=20, options=LIMITED, fields=("q", "docs")
        )
        neutral = await reading.neutral(request)
        done = await reading.split(request, neutral, 100)
        assert set(done.parts) == {1} and not done.cut
        own = done.parts[1]
        assert done.request.passages == ["a < /s>", *(part.text for part in own), "b"]
        assert all("</s>" not in part.text for part in own)
        assert long[own[-1].start :].endswith("bread oven") and own[-1].end == len(long)
        assert reading.lengths is not None
        counts = reading.lengths.count(done.request.passages)
        query = reading.lengths.count(request.queries)
        assert max(counts) + query[0] + 4 <= 64  # nothing is left to cut for the engine
        assert await reading.cut(done.request) == []
        few = request._replace(max_chunks=2)
        assert (await reading.split(few, neutral, 100)).cut == [1]
        with pytest.raises(TooLarge, match="more than 4 parts"):
            await reading.split(request, neutral, 4)
        with pytest.raises(InvalidRequest, match=r"longer than 2 parts .* raise max_chunks"):
            await reading.split(few._replace(may_cut=False), neutral, 100)

    run(tokenizer_folders["xlm"], story)


def test_each_passage_is_split_for_its_own_query(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        long, query = "deep learning " * 20, "weather " * 4
        request = RerankRequest(["rank", query, query * 30], [long, long, "b"], max_chunks=20)
        request = request._replace(options=LIMITED)
        done = await reading.split(request, request, 100)
        counts = [len(done.parts[index]) for index in (0, 1)]
        assert counts[0] < counts[1]
        assert done.request.queries == ["rank"] * counts[0] + [query] * counts[1] + [query * 30]
        assert done.cut == [2]  # a query that is cut itself
        assert await reading.cut(done.request) == [sum(counts)]

    run(tokenizer_folders["xlm"], story)


@pytest.mark.parametrize(
    ("queries", "passages", "limits", "param", "words"),
    [
        (["q"], ["a", "b " * 99], {}, "docs[1]", "reads 58 of it beside its query"),
        (["q " * 99], ["a", "b"], {}, "text", "reads 45 of it: shorten it"),
        (["q", "q " * 99], ["a", "b"], {}, "text[1]", "shorten it"),
        (["q"], ["b " * 20], {"max_tokens_per_doc": 9}, "docs[0]", "reads 9 of it"),
        (["q " * 20], ["b"], {"max_tokens_per_query": 9}, "text", "reads 9 of it"),
    ],
)
def test_what_may_not_be_cut_is_refused(
    tokenizer_folders: dict[str, Path],
    queries: list[str],
    passages: list[str],
    limits: dict[str, object],
    param: str,
    words: str,
):
    async def story(reading: Reading) -> None:
        request = RerankRequest(
            queries, passages, may_cut=False, fields=("text", "docs"), options={**LIMITED, **limits}
        )
        with pytest.raises(InvalidRequest, match=words) as error:
            await reading.refuse_cuts(request)
        assert error.value.param == param and error.value.message.startswith(f"{param} has ")
        await reading.refuse_cuts(request._replace(queries=["q"], passages=["a"]))

    run(tokenizer_folders["xlm"], story)


@pytest.mark.parametrize(
    ("passage", "options", "length", "is_refused"),
    [
        ("b" * 50, LIMITED, 64, False),
        ("b" * 70, LIMITED, 64, True),
        ("東" * 30, LIMITED, 64, True),
        ("b" * 30, {**LIMITED, "max_tokens_per_doc": 20}, 64, True),
        ("b", LIMITED, None, True),  # it may be of any length
    ],
)
def test_without_a_tokenizer_a_long_passage_cannot_be_split(
    passage: str, options: dict[str, object], length: int | None, is_refused: bool
):
    reading, request = Reading(length), RerankRequest(["q"], ["a", passage], options=options)
    reading.check(request)
    request = request._replace(max_chunks=5)
    if is_refused:
        with pytest.raises(InvalidRequest, match="tokenizer is not known") as error:
            reading.check(request)
        assert error.value.param == "max_chunks_per_doc"
    else:
        reading.check(request)
        assert asyncio.run(reading.split(request, request, 9)).request == request
    reading.close()


def test_a_limit_that_leaves_no_room_for_text(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        request = RerankRequest(["q"], ["a"])
        reading.check(request._replace(options={"truncate_prompt_tokens": 6}))
        with pytest.raises(InvalidRequest, match="send 6 at least"):
            reading.check(request._replace(options={"truncate_prompt_tokens": 5}))

    run(tokenizer_folders["xlm"], story)


def test_a_passage_that_nothing_limits_is_whole_beside_a_query_that_is_cut(
    tokenizer_folders: dict[str, Path],
):
    async def story(reading: Reading) -> None:
        reading.max_model_len = None
        request = RerankRequest(["deep learning " * 9], ["bread " * 900], max_chunks=9)
        request = request._replace(options={**LIMITED, "max_tokens_per_query": 3})
        done = await reading.split(request, request, 9)
        assert (done.request, done.parts, done.cut) == (request, {}, [0])

    run(tokenizer_folders["minilm"], story)


def test_splitting_can_be_cancelled(tokenizer_folders: dict[str, Path]):
    async def story(reading: Reading) -> None:
        request = RerankRequest(["q"], ["deep learning " * SLICE_CHARS] * 9, max_chunks=9**9)
        request = request._replace(options=LIMITED)
        task = asyncio.create_task(reading.split(request, request, 9**9))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(tokenizer_folders["minilm"], story)


@pytest.mark.parametrize("text", ["", "{}", "[", '{"version": "1.0", "model": {"type": "New"}}'])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        run(tmp_path, lambda reading: asyncio.sleep(0), is_learnt=False)


def test_a_tokenizer_with_a_hole_in_its_vocabulary(tmp_path: Path):
    Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: WordLevel error"):
        run(tmp_path, lambda reading: asyncio.sleep(0), is_learnt=False)


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

    run(tmp_path, story, is_learnt=False)


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

    run(tmp_path, story, is_learnt=False)
