"""Our server beside what one would take instead: in one run, on the same weights, in turn.

`environments.py` makes the peers' environments from `lock/`; `workers/` runs inside them, spoken to
by `worker.py`. `subjects.py` (the models), `texts.py`, `gemm.py`, `agreement.py` and `verdicts.py`
(rows and figures) are pure; `machine.py` tells whether others are at work; `served.py` is our
server as a peer, `scoring.py` takes turns. Proxies: `zero_engine.py` is what all stand in front of,
`fronts.py` starts them, `wire.py` asks them, `proxies.py` measures; `relay.py` is the least that
one in Python can be.

Workers run as modules of this package where none of our own packages is installed, so what needs
those is imported when it is used.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.outcome import Outcome

FAMILIES = ("vllm", "sentence-transformers", "infinity", "onnxruntime", "flashrank")
PROXIES = ("litellm", "haproxy", "relay")
SUBJECTS = ("minilm", "cross-encoder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from benchmarks.load.options import amount, count, counts

    add = parser.add_argument
    add("--only", choices=("scoring", "proxies"), help="default: both")
    add("--models", type=_among(SUBJECTS), default=SUBJECTS, metavar="A,B", help=_all(SUBJECTS))
    add("--lengths", type=counts, metavar="N,N", help="tokens; default: each model's 128 and most")
    add("--passages", type=count, default=32, help="of each query; default: %(default)s")
    every = FAMILIES + PROXIES
    add("--peers", type=_among(every), default=every, metavar="A,B", help=_all(every))
    add("--rounds", type=count, default=7, help="turns of each peer; default: %(default)s")
    add(
        "--seconds",
        type=amount,
        default=2.0,
        help="of each turn, of at least one request; default: %(default)g",
    )
    add("--clients", type=counts, default=(8, 32), help="of a proxy; default: 8,32")
    add("--sizes", type=counts, default=(4, 100), help="passages for proxies; default: 4,100")
    words = "for environments and models; default: beside our own environment"
    add("--cache", type=Path, default=Path(sys.prefix), metavar="FOLDER", help=words)


def run(arguments: argparse.Namespace) -> "list[Outcome]":
    """Raises UsageError, MeasureError."""
    from benchmarks.outcome import UsageError

    if arguments.cache.exists() and not arguments.cache.is_dir():
        raise UsageError(f"--cache {arguments.cache} is no folder: name another")
    found = []
    if arguments.only != "proxies":
        from benchmarks.peers.scoring import run as run_scoring

        found += run_scoring(arguments)
    if arguments.only != "scoring":
        from benchmarks.peers.proxies import run as run_proxies

        found += run_proxies(arguments)
    return found


def _among(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Reads several of `known`, with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        asked = tuple(text.split(","))
        for name in asked:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return asked

    return read


def _all(names: tuple[str, ...]) -> str:
    return f"of {', '.join(names)}; default: all"
