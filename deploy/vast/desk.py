"""What every command works with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from deploy.vast.api import Vast
from deploy.vast.notes import Notes


@dataclass
class Desk:
    """An account, this machine's notes, and who is told a line.

    `clock` gives seconds since 1970; `sleep` takes seconds, as `poll_s` is.
    """

    vast: Vast
    notes: Notes
    show: Callable[[str], None]
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    poll_s: float = 3.0
