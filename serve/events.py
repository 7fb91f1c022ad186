"""What happens to requests inside the server, told to whoever counts it."""

SHED = ("pairs", "bytes", "wait", "deadline")
REUSED = ("cache", "shared", "request", "flight")
MOVED = ("failed", "slow")
DEATHS = ("exited", "stalled", "start")


class Events:
    """Called by the pools and supervisors as it happens. This one listens to nothing; metrics do.

    `model` is a model's first name, `replica` the index of one of its engines. Reasons are words
    of this program, never a client's: each one is a time series.
    """

    def waited(self, model: str, seconds: float) -> None:
        """A request's first pairs went to an engine so long after it was admitted. Called in the
        request's own context, once for each model that it asks."""

    def engine_answered(self, model: str, replica: int, seconds: float, outcome: str) -> None:
        """An engine answered a turn (some pairs of one request), or failed to: `outcome` is `ok`
        or the code of the error."""

    def moved(self, model: str, reason: str) -> None:
        """A turn was given to another replica, for a reason of MOVED: the first failed, or was
        slow."""

    def shed(self, model: str, reason: str) -> None:
        """A request was refused for want of room or time, for a reason of SHED."""

    def reused(self, model: str, how: str, pairs: int) -> None:
        """So many pairs were not scored, as REUSED says: their scores were in the cache, in the one
        that servers share, were there for the same pair of the same request, or came with those of
        another request."""

    def shared_cache_failed(self) -> None:
        """The cache that servers share did not answer, or not as it should: it is left alone for
        some seconds."""

    def cut(self, model: str, passages: int) -> None:
        """So many passages of one request were not read whole."""

    def died(self, model: str, replica: int, reason: str) -> None:
        """An engine ended unasked, for a reason of DEATHS: it exited, stalled, or did not start."""
