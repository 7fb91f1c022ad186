"""One instance from its creation until it is kept or gone, whatever happens between."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal

from deploy.vast.api import Vast
from deploy.vast.errors import Gone, Lost, NoCredit, StillThere, Unclear
from deploy.vast.plan import Request

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Show = Callable[[str], None]


class Rental:
    """Use as a context manager: what was created in it and not kept is destroyed at its end.

    The label tells it from everything else of the account. While it lasts, a first signal raises
    KeyboardInterrupt, and those that come while it cleans up are answered with words; only one more
    interrupts that. `state` is "nothing" when nothing is left, and "unclear" when nobody can tell.
    """

    def __init__(self, vast: Vast, request: Request, show: Show) -> None:
        self._vast, self._request, self._show = vast, request, show
        self._id: int | None = None
        self._is_shown = False  # by Vast.ai, which may say of what it does not show that it is gone
        self._signals: int | None = None  # how many came since it cleans up
        self._before: dict[int, Any] = {}
        self.state: Literal["nothing", "may exist", "unclear", "kept"] = "nothing"

    def __enter__(self) -> "Rental":
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._before[number] = signal.signal(number, self._on_signal)
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
            self.state = "unclear"
            raise Lost(f"nothing was created, as it seems ({error})", label) from error
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
        self.end()

    def end(self) -> None:
        """Does what is to be done at the end, if it is not done. Raises StillThere."""
        self._signals = self._signals or 0
        try:
            if self.state == "may exist":
                self._destroy()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _destroy(self) -> None:
        label = self._request.label
        self.state = "unclear"  # until it is done
        if self._id is not None:
            destroy(self._vast, label, self._id, self._show)
        found = self._is_shown or destroy(self._vast, label, None, self._show)
        if not found and self._id is None:
            raise StillThere(
                f"an instance labelled {label} may have been created, and does not show yet:"
                f" look once more with `{command('destroy', label)}`"
            )
        self.state = "nothing"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signals is None:
            self._signals = 0
            raise KeyboardInterrupt
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt
        label = self._request.label
        self._show(
            f"destroying {label}: wait a little, or interrupt once more to leave it as it is"
        )


def destroy(vast: Vast, label: str, instance: int | None, show: Show) -> bool:
    """Destroys an instance, or without its id what bears the label, and returns when it is gone.

    Whether there was any. Raises StillThere.
    """
    try:
        ids = [instance] if instance else [one.id for one in vast.find(label)]
        for one in ids:
            vast.destroy(one)
            show(f"instance {one} is destroyed")
        if not ids:
            show(f"no instance is labelled {label}")
        return bool(ids)
    except BaseException as error:
        known = f"instance {instance}" if instance else "an instance"
        raise StillThere(
            f"{known} labelled {label} may still run and cost money ({_why(error)}): end it with"
            f" `{command('destroy', str(instance or label))}`"
        ) from error


def command(verb: str, name: str) -> str:
    """What to type for a deployment, by its id or label."""
    return f".venv/bin/python -m deploy vast {verb} {name}"


def _why(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
