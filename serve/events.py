"""What happens to requests inside the server, told to whoever counts it."""


class Events:
    """Called by the pools as it happens. This one listens to nothing; metrics do.

    `model` is a model's first name, `replica` the index of one of its engines.
    """

    def waited(self, model: str, seconds: float) -> None:
        """A request's first pairs went to an engine so long after it was admitted."""

    def engine_answered(self, model: str, replica: int, seconds: float, outcome: str) -> None:
        """An engine answered a turn (some pairs of one request), or failed to: `outcome` is `ok`
        or the code of the error."""

    def moved(self, model: str, reason: str) -> None:
        """A turn was given to another replica: the first `failed`, or was `slow`."""

    def shed(self, model: str, reason: str) -> None:
        """A request was refused for want of room or time: `pairs`, `bytes` or `deadline`."""

    def cut(self, model: str, passages: int) -> None:
        """So many passages of one request were not read whole."""

    def died(self, model: str, replica: int, reason: str) -> None:
        """An engine ended unasked: it `exited`, `stalled`, or did not `start`."""
