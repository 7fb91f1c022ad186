"""Whether one engine is to be trusted with work: a circuit breaker, without clock or I/O."""

FAILURES_TO_OPEN = 3  # in a row


class Health:
    """Sick: it failed several times in a row, and is given no work until a probe succeeds.
    Slow: it owes an answer for far too long, and is given none where another engine can take it.
    Doubted: it gave what are no scores, which may be the texts' fault."""

    def __init__(self) -> None:
        self._failures = 0  # since the last success
        self._is_doubted = False
        self._sick_since: float | None = None
        self._slow_since: float | None = None

    @property
    def is_sick(self) -> bool:
        return self._sick_since is not None

    @property
    def is_slow(self) -> bool:
        return self._slow_since is not None

    @property
    def needs_a_probe(self) -> bool:
        return self._is_doubted or self.troubled_since is not None

    @property
    def troubled_since(self) -> float | None:
        """Since when, in seconds of whoever told, it has been sick or slow; None when neither."""
        return min((t for t in (self._sick_since, self._slow_since) if t is not None), default=None)

    def answered(self) -> None:
        """It has given scores: all is well."""
        self._failures = 0
        self._is_doubted = False
        self._sick_since = self._slow_since = None

    def failed(self, now: float, *, of: int = FAILURES_TO_OPEN) -> None:
        """It could not be reached, or gave what are no scores although another could. So many
        (`of`) in a row make it sick."""
        self._failures += 1
        if self._failures >= of and self._sick_since is None:
            self._sick_since = now

    def doubts(self) -> None:
        """It gave what are no scores, and no other engine has shown that there are any."""
        self._is_doubted = True

    def lags(self, now: float) -> None:
        """It is slow."""
        if self._slow_since is None:
            self._slow_since = now
