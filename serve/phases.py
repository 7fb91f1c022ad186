"""What an engine's start has come to: read off its output, noted in its replica, logged."""

import logging
from collections import deque
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from serve.replica import Replica
from serve.vllm_log import PHASES, Progress, explain, progress

log = logging.getLogger(__name__)

LOG_BYTES = 10 * 1024 * 1024
LINES_KEPT = 4000  # of one start, to find its first error in


class Phases:
    """Follows one engine through its lives. `label` is what logs call it."""

    def __init__(
        self, label: str, replica: Replica, log_file: Path, clock: Callable[[], float]
    ) -> None:
        self.log_file = log_file
        self._label = label
        self._replica = replica
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._entered: list[tuple[str, float]] = []

    def begin(self) -> RotatingFileHandler:
        """Forgets the last life; gives what writes the next one's output, to be closed."""
        self._lines.clear()
        self._entered.clear()
        return RotatingFileHandler(
            self.log_file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
        )

    def read(self, line: str, handler: RotatingFileHandler) -> None:
        """One line of the engine's output."""
        handler.handle(logging.makeLogRecord({"msg": line}))
        self._lines.append(line)
        seen = progress(line)
        if seen is not None:
            self.advance(seen)

    def advance(self, now: Progress) -> None:
        """Enters a phase of a start, unless it is beyond that: a start only goes forward."""
        start, before = PHASES[:-1], self._replica.progress.phase
        if before in start and now.phase in start and start.index(before) <= start.index(now.phase):
            self.enter(now)

    def enter(self, now: Progress) -> None:
        """Notes where the engine is, and since when if that is another phase."""
        changed = now.phase != self._replica.progress.phase or not self._entered
        self._replica.progress = now
        if changed:
            self._replica.since = self._clock()
            self._entered.append((now.phase, self._replica.since))
            log.info("%s: %s", self._label, now.phase)
            self._replica.changed()

    def why(self, exit_code: int | None) -> str:
        """What its output says went wrong."""
        return explain(self._lines, exit_code)

    def shares(self) -> str:
        """How long the start took and the share of each phase."""
        times = [time for _, time in self._entered]
        total = times[-1] - times[0]
        parts = (
            f"{phase} {end - begin:.1f} s"
            for (phase, begin), end in zip(self._entered, times[1:], strict=False)
        )
        return f"{total:.1f} s ({', '.join(parts)})"
