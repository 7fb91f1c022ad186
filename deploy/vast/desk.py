"""What every command works with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from deploy.vast.api import Pace, Vast
from deploy.vast.notes import Notes


@dataclass
class Desk:
    """An account, this machine's notes, who is told a line, and how fast anything is asked.

    `clock` gives seconds since 1970.
    """

    vast: Vast
    notes: Notes
    show: Callable[[str], None]
    pace: Pace
    clock: Callable[[], float] = time.time
