"""The peers' environments: one for each lock file, made when it is first needed."""

from pathlib import Path

from deploy.install import (
    CANDIDATES,
    TORCH_CPU,
    check_disk,
    find_python,
    install,
    install_cpu_torch,
    is_installed,
    make_venv,
    requirements,
)

LOCKS = Path(__file__).parent / "lock"
DISK_GIB = {"torch": 4.0, "infinity": 4.0, "litellm": 2.0}


def python(name: str, folder: Path) -> Path:
    """The Python of the environment of `lock/NAME.txt`, in `folder`. Raises InstallError."""
    lock, venv = LOCKS / f"{name}.txt", folder / name
    program = venv / "bin" / "python"
    if is_installed(venv, lock):
        return program
    folder.mkdir(parents=True, exist_ok=True)
    if TORCH_CPU.split("+")[0] in requirements(lock) and not program.exists():
        # First the CPU's build, which satisfies the lock: what pip finds by itself is CUDA's.
        check_disk(folder, DISK_GIB[name])
        make_venv(venv, find_python(CANDIDATES))
        install_cpu_torch(venv)
    install(venv, [lock], disk_gib=DISK_GIB[name])
    return program
