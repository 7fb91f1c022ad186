"""Whether the machine is ours: what others do beside a measurement goes into its figures."""

from collections.abc import Sequence

BUSY = 0.5  # of the cores, by the load of the last minute


def notes(load: float, cores: int) -> Sequence[str]:
    """What is to be told of a load average taken before the first turn; nothing where it is low."""
    if load <= BUSY * cores:
        return ()
    return (
        f"THE MACHINE WAS BUSY: load {load:.1f} on {cores} cores before this began. Rates, and"
        " ratios of them, are not to be quoted; the slower of two suffers more than its share",
    )
