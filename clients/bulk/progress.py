"""What a run tells on stderr: a bar while it goes on, lines about what it passed over."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]


class Progress:
    """A bar of pairs, with pairs/s and the time left. Use as a context manager.

    `shown` None is "when stderr is a terminal". `total` None is "not known".
    """

    def __init__(self, shown: bool | None) -> None:
        self._shown = shown
        self._bar = None

    def start(self, total: int | None, done: int) -> Self:
        """Shows the bar: `done` of `total` pairs were ranked by an earlier run."""
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" pairs",
            unit_scale=True,
            disable=None if self._shown is None else not self._shown,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, pairs: int) -> None:
        if self._bar is not None:
            self._bar.update(pairs)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        tqdm.write(line, file=sys.stderr)
