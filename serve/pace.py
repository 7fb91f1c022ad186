"""How fast a model's engines work, as measured: how long a queue lasts, how much is one turn."""

import math
from dataclasses import dataclass

MEMORY_S = 5.0  # of work; what was measured before weighs 1/e of what is measured now
# One turn is so much work. Short, so that whoever comes next waits little; long enough that what
# each costs by itself does not count (benchmarks/LOG.md).
TURN_S = 0.05
LEAST_PAIRS, MOST_PAIRS = 16, 512  # of one turn
MOST_S = 1.0  # where an engine takes longer than this for LEAST_PAIRS, fewer are one turn
# Long texts take longer: a turn has no more bytes than so much work, unless it is one pair.
TURN_BYTES_S = 0.25
LEAST_BYTES, MOST_BYTES = 16 * 1024, 1024 * 1024
GUESS_TIMES = 8  # an engine may be so much faster than its warm-up, of two pairs, lets guess
# An engine is slow with a turn that takes so many times the usual, and so many seconds at least.
SLOW_TIMES, SLOW_S = 5.0, 1.0


@dataclass
class _Stretch:
    """Some work, one answer after the other."""

    pairs: int = 0
    size: int = 0
    seconds: float = 0.0
    is_full: bool = True


class Pace:
    """Averages over the last seconds of work; 0 is "not known yet"."""

    def __init__(self) -> None:
        self._pairs = self._bytes = self._seconds = 0.0
        self._turn_s = self._pair_s = 0.0
        self._is_guess = False
        self._stretch = _Stretch()

    @property
    def rate(self) -> float:
        """Pairs per second, of all engines together."""
        return self._pairs / self._seconds if self._seconds else 0.0

    def slow_after_s(self, pairs: int) -> float:
        """Seconds after which a turn of so many pairs that is not answered is a slow one."""
        return max(SLOW_S, SLOW_TIMES * max(self._turn_s, self._pair_s * pairs))

    def guess(self, pairs: int, size: int, seconds: float, engines: int) -> None:
        """What there is until something is measured: one engine has done so much by itself, which
        is less than it does at a time when it is asked for more."""
        if not self._seconds:
            self._add(_Stretch(pairs * engines, size * engines, seconds))
            self._is_guess = True

    def record(
        self, pairs: int, size: int, seconds: float, turn_s: float, *, is_full: bool
    ) -> None:
        """`pairs` of `size` bytes were answered, `seconds` of work after those before them; the
        turn that they were took `turn_s`.

        Several turns are often answered at once, so that only stretches that are as long as a turn
        tell something. Unless work is waiting (`is_full`) all along, the engines could do more than
        they are asked, and a stretch may only raise a rate that is known.
        """
        share = 0.2 if self._turn_s else 1.0
        self._turn_s += (turn_s - self._turn_s) * share
        self._pair_s += (turn_s / pairs - self._pair_s) * share
        new = self._stretch
        new.pairs, new.size, new.seconds = new.pairs + pairs, new.size + size, new.seconds + seconds
        new.is_full = new.is_full and is_full
        if new.seconds < self._turn_s or new.seconds <= 0:
            return
        if new.is_full or 0 < self.rate * new.seconds < new.pairs:
            if self._is_guess:
                self._pairs = self._bytes = self._seconds = 0.0
            self._add(new)
            self._is_guess = self._is_guess and not new.is_full
        self._stretch = _Stretch()

    def _add(self, new: "_Stretch") -> None:
        fades = math.exp(-new.seconds / MEMORY_S)
        self._pairs = self._pairs * fades + new.pairs
        self._bytes = self._bytes * fades + new.size
        self._seconds = self._seconds * fades + new.seconds

    def turn(self, engines: int) -> tuple[int, int]:
        """The most pairs and bytes of one turn, where `engines` share the work."""
        if not self._seconds:
            return LEAST_PAIRS, LEAST_BYTES
        share = self._seconds * max(1, engines)
        rate = self._pairs / share
        return (
            _between(_between(1, rate * MOST_S, LEAST_PAIRS), rate * TURN_S, MOST_PAIRS),
            _between(LEAST_BYTES, self._bytes / share * TURN_BYTES_S, MOST_BYTES),
        )

    def seconds(self, pairs: float) -> float:
        """How long so many pairs take, or may take at best if that is a guess; 0 as long as nothing
        is known."""
        rate = self.rate * (GUESS_TIMES if self._is_guess else 1)
        return pairs / rate if rate else 0.0


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(most, int(value)))
