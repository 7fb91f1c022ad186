"""How long requests may take: what their clients say, and a clock for each."""

import math
from collections.abc import Mapping

from serve.engine import RETRY_AFTER_S
from serve.errors import DeadlineExceeded, InvalidRequest, RequestError, Unavailable
from serve.headers import TIMEOUT
from serve.interrupt import Alarm, Alarms

# How long OpenAI's SDK will wait for an answer, in seconds: it says so with each request.
_OPENAI = "x-stainless-read-timeout"


def asked_s(headers: Mapping[str, str]) -> float:
    """The seconds after which a client wants no answer any more; infinity where it does not say.

    Raises InvalidRequest.
    """
    ours, theirs = headers.get(TIMEOUT), headers.get(_OPENAI)
    if ours is not None:
        seconds = _positive(ours)
        if seconds is None:
            raise InvalidRequest(
                f"{TIMEOUT}: {ours!r} is no number of seconds above 0: send one such as 2.5, or no"
                " such header.",
                param=TIMEOUT,
            )
        return seconds
    return (theirs is not None and _positive(theirs)) or math.inf


def _positive(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None


class Deadlines:
    """The clocks of the requests that are being answered, all of which a stop can end."""

    def __init__(self) -> None:
        self._alarms = Alarms()

    def within(self, seconds: float) -> Alarm:
        """Ends its block after so many seconds with DeadlineExceeded, or, when the server stops,
        with Unavailable."""
        return self._alarms.within(seconds, self._error)

    def _error(self) -> RequestError:
        if self._alarms.are_over:
            return Unavailable("The server has stopped: try again.", retry_after=RETRY_AFTER_S)
        return DeadlineExceeded(
            "It took longer than it may: send fewer or shorter passages, give it more time"
            f" ({TIMEOUT}, or your SDK's time-out), or raise `limits: {{timeout_s: …}}`."
        )

    def end(self) -> None:
        """Ends all that runs, and whatever comes."""
        self._alarms.end()
