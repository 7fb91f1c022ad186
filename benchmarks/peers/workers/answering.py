"""The loop of every worker: a line of JSON in, one out, until the input ends.

`{"cmd": "score", "query": …, "passages": […], "setting": …}` → `{"scores": […], "seconds": …}`; the
first line out, before any is read, is `{"ready": …}` with what the worker tells of itself.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1

Asked = Mapping[str, Any]
Handler = Callable[[Asked], Mapping[str, Any]]
ScoreAll = Callable[[str, list[str], Any], list[float]]


def arguments() -> Asked:
    """What the parent says to load."""
    given: Asked = json.loads(sys.argv[1])
    return given


def answer(out: TextIO, ready: Mapping[str, Any], handlers: Mapping[str, Handler]) -> None:
    """Says `ready`, then answers until standard input ends; `seconds` are of the handler alone."""
    _say(out, {"ready": ready})
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        told = dict(handlers[asked["cmd"]](asked))
        told.setdefault("seconds", time.perf_counter() - begin)
        _say(out, told)
    os._exit(0)  # whatever threads a library has left running


def answer_scores(
    out: TextIO,
    ready: Mapping[str, Any],
    score: ScoreAll,
    prepare: Callable[[Any], object] = lambda setting: None,
) -> None:
    """The same for a model: `score` gives the raw values of a query's passages, after `prepare`
    has made it fit for the setting, which takes no measured time."""

    def handler(asked: Asked) -> Mapping[str, Any]:
        prepare(asked["setting"])
        begin = time.perf_counter()
        scores = score(asked["query"], asked["passages"], asked["setting"])
        return {"scores": scores, "seconds": time.perf_counter() - begin}

    answer(out, ready, {"score": handler})


def answers() -> TextIO:
    """Standard output, for answers alone: call it before importing what prints, which from here on
    goes to standard error."""
    _end_with_parent()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # not kept back until the end, where the last words are looked for
    return os.fdopen(ours, "w")


def _end_with_parent() -> None:
    """A worker that is stopped would not see that its input has ended, and keep its memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(out: TextIO, told: Mapping[str, Any]) -> None:
    print(json.dumps(told), file=out, flush=True)
