"""How fast this machine multiplies matrices of a model's shapes, which bounds every peer."""

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.workers.answering import Asked, answer, answers, arguments

LEAST_S = 0.3  # of each figure


def main() -> None:
    out = answers()
    import torch

    torch.set_num_threads(arguments()["cores"])
    answer(out, {"version": f"torch {torch.__version__}"}, {"gemm": _sweep})


def _sweep(asked: Asked) -> Mapping[str, Any]:
    """Seconds of one layer's linear maps, `shapes` of (K, N), over `tokens` rows."""
    import torch

    dtype = getattr(torch, asked["dtype"])
    rows = {k: torch.randn(asked["tokens"], k, dtype=dtype) for k, _ in asked["shapes"]}
    maps = [(k, torch.randn(n, k, dtype=dtype)) for k, n in asked["shapes"]]
    with torch.inference_mode():
        _once(rows, maps)
        begin, sweeps = time.perf_counter(), 0
        while time.perf_counter() - begin < LEAST_S:
            _once(rows, maps)
            sweeps += 1
    return {"seconds": (time.perf_counter() - begin) / sweeps}


def _once(rows: Mapping[int, Any], maps: list[tuple[int, Any]]) -> None:
    from torch.nn.functional import linear

    for k, weights in maps:
        linear(rows[k], weights)


if __name__ == "__main__":
    main()
