"""Infinity's engine in process, as its server starts it: torch, without BetterTransformer."""

import asyncio
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.workers.answering import (
    Asked,
    answer_scores,
    answers,
    arguments,
)

BATCH_SIZES = (8, 16, 32)


def main() -> None:
    out = answers()
    import torch
    from infinity_emb import AsyncEmbeddingEngine

    given = arguments()
    torch.set_num_threads(given["cores"])
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    engines: dict[int, Any] = {}

    def engine(batch: int) -> Any:
        """One at a time: an engine's batch size is fixed when it is made."""
        if batch not in engines:
            for old in engines.values():
                loop.run_until_complete(old.astop())
            engines.clear()
            engines[batch] = AsyncEmbeddingEngine.from_args(_settings(given, batch))
            loop.run_until_complete(engines[batch].astart())
        return engines[batch]

    def score(query: str, passages: list[str], batch: int) -> list[float]:
        ask = _rerank if given["kind"] == "logit" else _embed
        return loop.run_until_complete(ask(engine(batch), query, passages))

    engine(BATCH_SIZES[-1])
    ready = {"settings": BATCH_SIZES, "version": f"infinity-emb {_version()}"}
    answer_scores(out, ready, score, prepare=engine)


def _settings(given: Asked, batch: int) -> Any:
    from infinity_emb import EngineArgs

    options: Mapping[str, Any] = {
        "model_name_or_path": given["folder"],
        "engine": "torch",
        "device": "cpu",
        "dtype": given["dtype"],
        "bettertransformer": False,
        "compile": False,
        "model_warmup": False,
        "batch_size": batch,
    }
    return EngineArgs(**options)


async def _rerank(engine: Any, query: str, passages: list[str]) -> list[float]:
    ranked, _ = await engine.rerank(query=query, docs=passages, raw_scores=True)
    scores = {found.index: float(found.relevance_score) for found in ranked}
    return [scores[index] for index in range(len(passages))]


async def _embed(engine: Any, query: str, passages: list[str]) -> list[float]:
    import numpy as np

    vectors, _ = await engine.embed(sentences=[query, *passages])
    table = np.asarray(vectors, dtype=np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    return list(map(float, table[1:] @ table[0]))


def _version() -> str:
    from importlib.metadata import version

    return version("infinity-emb")


if __name__ == "__main__":
    main()
