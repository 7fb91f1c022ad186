"""A bar on standard error, where that is a terminal, while a measurement takes its time."""

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]


class Progress:
    """How much of `total` is done, in `unit`, and how long the rest takes. Use as a context
    manager."""

    def __init__(self, words: str, total: float, unit: str) -> None:
        self._bar = tqdm(
            desc=words,
            total=total,
            unit=unit,
            file=sys.stderr,
            disable=None,  # where it is no terminal
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f}{unit}{postfix} {eta}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def step(self) -> None:
        self._bar.update(1)

    def reach(self, done: float, words: str = "") -> None:
        """So much of the total is done, if not more already."""
        if words:
            self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(max(0.0, min(done, self._bar.total) - self._bar.n))
