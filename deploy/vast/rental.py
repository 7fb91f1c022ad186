"""One instance from its creation until it is kept or gone, whatever happens between."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Literal

from deploy.vast.api import Vast
from deploy.vast.errors import Gone, Lost, NoCredit, StillThere, Unclear
from deploy.vast.plan import Request

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Show = Callable[[str], None]


class Rental:
    """Use as a context manager: what was created in it and not kept is destroyed at its end.

    The label tells it from everything else of the account. Raises StillThere at its end when the
    instance could not be destroyed, or nobody can tell whether there is one.
    """

    def __init__(self, vast: Vast, request: Request, show: Show) -> None:
        self._vast, self._request, self._show = vast, request, show
        self._id: int | None = None
        self._is_shown = False  # by Vast.ai, which may say of what it does not show that it is gone
        self.state: Literal["nothing", "may exist", "kept"] = "nothing"

    def __enter__(self) -> "Rental":
        return self

    def create(self, offer: int) -> int:
        """Rents an offer, once: the instance's id. Raises what `Vast.create` does, but Unclear."""
        self.state = "may exist"
        try:
            self._id = self._vast.create(offer, self._request)
            self._is_shown = self._vast.show(self._id) is not None
        except Unclear as error:
            self._id = self._find(error)
            self._is_shown = True
        except (Gone, NoCredit):  # which say that nothing was created
            self.state = "nothing"
            raise
        return self._id

    def _find(self, error: Unclear) -> int:
        """The id of what a lost answer has created. Raises Lost."""
        label = self._request.label
        self._show(f"{error}: looking for an instance labelled {label}")
        found = self._vast.find(label)
        if not found:
            self.state = "nothing"
            raise Lost(f"nothing was created, as it seems ({error})") from error
        return found[0].id

    def keep(self) -> None:
        """Lets the instance live on after the end."""
        self.state = "kept"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.state != "may exist":
            return
        label = self._request.label
        with patient(self._show, f"destroying {label}"):
            if self._id is not None:
                destroy(self._vast, label, self._id, self._show)
            if not self._is_shown:
                destroy(self._vast, label, None, self._show)
        self.state = "nothing"


def destroy(vast: Vast, label: str, instance: int | None, show: Show) -> None:
    """Destroys an instance, or without its id what bears the label, and returns when it is gone.

    Raises StillThere.
    """
    try:
        ids = [instance] if instance else [one.id for one in vast.find(label)]
        for one in ids:
            vast.destroy(one)
            show(f"instance {one} is destroyed")
        if not ids:
            show(f"no instance is labelled {label}")
    except BaseException as error:
        known = f"instance {instance}" if instance else "an instance"
        raise StillThere(
            f"{known} labelled {label} may still run and cost money ({_why(error)}): end it with"
            f" `{command('destroy', label)}`"
        ) from error


def command(verb: str, label: str) -> str:
    """What to type for a deployment."""
    return f".venv/bin/python -m deploy vast {verb} {label}"


@contextmanager
def patient(show: Show, what: str) -> Iterator[None]:
    """While it lasts, a first signal is answered with words, and only a second one interrupts."""
    seen = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise KeyboardInterrupt
        show(f"{what}: wait a little, or interrupt once more to leave it as it is")

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
