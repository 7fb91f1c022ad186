"""Makes `.venv` and installs the exact versions of `deploy/lock/` into it.

Run by the Makefile with any Python from 3.7; it uses the standard library alone and finds a Python
that is fit by itself. A second run that has nothing to do ends at once. Whatever fails is one clear
line, exit 1.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "lock"
VERSIONS = ((3, 11), (3, 12), (3, 13))
CANDIDATES = [sys.executable] + [f"python{major}.{minor}" for major, minor in VERSIONS]
# What an environment takes, with room for pip's work.
DISK_GIB = {"cpu": 5, "gpu": 16, "deploy": 0.5}
TORCH_CPU = "torch==2.13.0+cpu"

# What pip says when something outside of us is missing, and what to do about it.
REMEDIES = (
    (r"No space left on device", "the disk is full: free some space and run this again"),
    (
        r"NewConnectionError|Temporary failure|Name or service not known|Connection refused"
        r"|ConnectTimeout|Max retries|ProxyError|SSLError",
        "the package registry cannot be reached: check the network, or set PIP_INDEX_URL to yours",
    ),
    (
        r"No matching distribution|Could not find a version",
        "the package registry has no such version for this Python: check PIP_INDEX_URL",
    ),
    (r"externally-managed|Permission denied", "the environment cannot be written: check its owner"),
)


class InstallError(Exception):
    """What went wrong, with the remedy."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--device", choices=("cpu", "gpu"), default=device())
    parser.add_argument("--dev", action="store_true", help="also what checks and tests need")
    parser.add_argument("--only", choices=("deploy",), help="nothing but what this needs")
    options = parser.parse_args(arguments)
    main_part = options.only or options.device
    names = [main_part] + (["deploy", "dev"] if options.dev else [])
    locks = [LOCKS / f"{name}.txt" for name in names]
    try:
        install(options.venv, locks, disk_gib=DISK_GIB[main_part])
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run it again to go on", file=sys.stderr)
        return 130
    return 0


def device() -> str:
    """`gpu` where NVIDIA's driver answers, else `cpu`."""
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def install(venv: Path, locks: list[Path], *, disk_gib: float) -> None:
    """Brings `venv` to the state that `locks` name. Raises InstallError."""
    todo = [lock for lock in locks if not is_installed(venv, lock)]
    if not todo:
        return
    if not any(stamp(venv, lock).is_file() for lock in locks):
        check_disk(venv.resolve().parent, disk_gib)
    if not (venv / "bin" / "pip").is_file():
        make_venv(venv, find_python(CANDIDATES))
    for lock in todo:
        say(f"installing {lock.name} into {venv} (log: {log_file(venv)})")
        if lock.stem == "cpu":
            install_cpu_torch(venv)
        pip(venv, ["install", "--no-deps", "-r", str(lock)], len(requirements(lock)))
        stamp(venv, lock).write_text(digest(lock))


def is_installed(venv: Path, lock: Path) -> bool:
    """Whether `venv` was brought to the state of this very lock file."""
    return stamp(venv, lock).is_file() and stamp(venv, lock).read_text() == digest(lock)


def stamp(venv: Path, lock: Path) -> Path:
    return venv / f"{lock.stem}.installed"


def digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def find_python(candidates: list[str]) -> str:
    """The first of `candidates` that can make the environment."""
    seen = []
    probe = "import sys, venv, ensurepip; print(sys.version_info[:2])"
    for candidate in candidates:
        if shutil.which(candidate) is None:
            continue
        found = subprocess.run([candidate, "-c", probe], capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip() in map(str, VERSIONS):
            return candidate
        if "ensurepip" in found.stderr or "No module named 'venv'" in found.stderr:
            raise InstallError(
                f"{candidate} has no venv: install it (Debian, Ubuntu: apt install python3-venv)"
            )
        seen.append(f"{candidate} is {found.stdout.strip() or 'not usable'}")
    raise InstallError(
        f"Python 3.11, 3.12 or 3.13 is needed ({'; '.join(seen)}): install one, or name it with"
        " PYTHON=…"
    )


def check_disk(folder: Path, needed: float) -> None:
    """Raises InstallError when the environment would not fit."""
    free = shutil.disk_usage(str(folder)).free / 1024**3
    if free < needed:
        raise InstallError(
            f"{free:.1f} GiB are free in {folder} and about {needed:g} are needed: free some, or"
            " put the environment elsewhere with VENV=…"
        )


def make_venv(venv: Path, python: str) -> None:
    say(f"making {venv} with {python}")
    made = subprocess.run([python, "-m", "venv", str(venv)], capture_output=True, text=True)
    if made.returncode != 0:
        lines = (made.stderr or made.stdout).strip().splitlines() or ["no reason given"]
        raise InstallError(f"{venv} cannot be made: {lines[-1]}")


def install_cpu_torch(venv: Path) -> None:
    """The CPU build of torch: by pip as it is configured here, else from PyTorch's own index.

    pip finds it only where an index or folder with that build is configured. Otherwise uv does,
    which knows where PyTorch keeps its builds.
    """
    try:
        pip(venv, ["install", "--no-deps", TORCH_CPU], 1)
    except InstallError:
        say(f"pip knows no {TORCH_CPU} here: asking PyTorch's own index through uv")
        pip(venv, ["install", "uv"], 1)
        uv = [str(venv / "bin" / "uv"), "pip", "install", "--python", str(venv / "bin" / "python")]
        run(venv, [*uv, "--torch-backend", "cpu", "--no-deps", TORCH_CPU.split("+")[0]], 1)


def pip(venv: Path, arguments: list[str], packages: int) -> None:
    """Runs pip with `arguments` and shows how many of `packages` it has come to."""
    command = [str(venv / "bin" / "python"), "-m", "pip", *arguments]
    run(venv, [*command, "--disable-pip-version-check", "--progress-bar", "off"], packages)


def run(venv: Path, command: list[str], packages: int) -> None:
    """Runs an installer, its output in the log, its progress on the screen."""
    tail: list[str] = []
    show = Progress(packages)

    def on_line(line: str) -> None:
        log.write(line)
        tail.append(line.strip())
        show.line(line)

    with log_file(venv).open("a", encoding="utf-8") as log:
        status = follow(command, on_line)
    show.end()
    if status != 0:
        raise InstallError(f"{explain(tail)}; the whole log: {log_file(venv)}")


def follow(command: list[str], on_line: Callable[[str], None]) -> int:
    """Runs `command`, hands on each line of its output, and returns its exit status."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            on_line(line)
    return child.returncode


def explain(lines: list[str]) -> str:
    """The line that says most of why an installer failed, and the remedy."""
    text = "\n".join(lines)
    errors = [x for x in lines if x.upper().startswith("ERROR")] or lines[-1:] or ["no output"]
    for pattern, remedy in REMEDIES:
        if re.search(pattern, text):
            return f"{remedy} ({errors[0][:200]})"
    return errors[0][:300]


class Progress:
    """Counts the packages that an installer speaks of: a moving line, or a few still ones."""

    def __init__(self, packages: int) -> None:
        self.packages = packages
        self.seen = 0
        self.moving = sys.stderr.isatty()

    def line(self, line: str) -> None:
        found = re.match(r"(?:Collecting|Requirement already satisfied:|Processing) (\S+)", line)
        if found:
            self.seen += 1
            step = max(1, self.packages // 5)
            if self.moving or (self.packages > 1 and self.seen % step == 0):
                self.show(f"{self.seen:3}/{self.packages} {found[1]}")
        elif line.startswith("Installing collected packages") and self.packages > 1:
            self.show(f"unpacking {line.count(',') + 1} packages")

    def show(self, text: str) -> None:
        if self.moving:
            print(f"\r  {text:<70.70}", end="", file=sys.stderr, flush=True)
        else:
            say("  " + text)

    def end(self) -> None:
        if self.moving:
            print(f"\r{'':72}\r", end="", file=sys.stderr, flush=True)


def requirements(lock: Path) -> list[str]:
    lines = [line.strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def log_file(venv: Path) -> Path:
    return venv / "install.log"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
