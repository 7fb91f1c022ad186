"""How long requests may take."""

import asyncio
import math
from collections.abc import Mapping

import pytest

from serve.deadlines import Deadlines, asked_s
from serve.errors import DeadlineExceeded, InvalidRequest, Unavailable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, math.inf),
        ({"x-rerank-timeout": "2.5"}, 2.5),
        ({"x-rerank-timeout": "1e1", "x-stainless-read-timeout": "2"}, 10),
        ({"x-stainless-read-timeout": "600.0"}, 600),
        ({"x-stainless-read-timeout": "NOT_GIVEN"}, math.inf),
        ({"x-stainless-read-timeout": "-1"}, math.inf),
        ({"x-stainless-read-timeout": "nan"}, math.inf),
    ],
)
def test_what_clients_say(headers: Mapping[str, str], seconds: float):
    assert asked_s(headers) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e999", "2s", "٣x"])
def test_what_is_no_time_is_told(text: str):
    with pytest.raises(InvalidRequest, match="send one such as") as error:
        asked_s({"x-rerank-timeout": text})
    assert error.value.param == "x-rerank-timeout"


def test_a_block_ends_when_its_time_is_up():
    async def story() -> None:
        deadlines = Deadlines()
        with deadlines.within(60):
            await asyncio.sleep(0)
        late = pytest.raises(DeadlineExceeded, match="x-rerank-timeout")
        with late, deadlines.within(0.01):
            await asyncio.sleep(60)
        with pytest.raises(DeadlineExceeded), deadlines.within(0):
            await asyncio.sleep(60)

    asyncio.run(story())


def test_a_stop_ends_all_blocks_and_those_to_come():
    async def story() -> None:
        deadlines = Deadlines()

        async def work() -> None:
            with deadlines.within(60):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        deadlines.end()
        tasks.append(asyncio.create_task(work()))
        for task in tasks:
            with pytest.raises(Unavailable) as error:
                await task
            assert error.value.retry_after

    asyncio.run(story())


def test_who_cancels_a_block_is_heard():
    async def story() -> None:
        deadlines = Deadlines()

        async def work() -> None:
            with deadlines.within(60):
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
