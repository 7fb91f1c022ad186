"""Whether the machine is ours: what others do beside a measurement goes into its figures."""

from collections.abc import Sequence

import psutil

BUSY = 0.25  # of the cores
LOOK_S = 1.0


def cores_at_work() -> float:
    """How many cores are at work now. (A load average would tell of the measurement before.)"""
    return psutil.cpu_percent(LOOK_S) / 100 * (psutil.cpu_count() or 1)


def notes(at_work: float, cores: int) -> Sequence[str]:
    """What is to be told of cores at work before the first turn; nothing where they are few."""
    if at_work <= BUSY * cores:
        return ()
    return (
        f"THE MACHINE WAS BUSY: {at_work:.1f} of {cores} cores were at work before this began."
        " Rates, and ratios of them, are not to be quoted; the slower of two suffers more than its"
        " share",
    )
