"""Several waits, of which the first one counts."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any


async def first(
    waits: Mapping[str, Coroutine[Any, Any, Any]], timeout_s: float | None = None
) -> dict[str, "asyncio.Task[Any]"]:
    """Those that are done when the first one is, or nothing; the others are cancelled."""
    tasks = {name: asyncio.create_task(wait) for name, wait in waits.items()}
    try:
        await asyncio.wait(tasks.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return {name: task for name, task in tasks.items() if task.done()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
