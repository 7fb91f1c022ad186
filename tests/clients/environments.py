"""Makes the environments that the clients run in: one for each lock file, and Node's.

`python -m tests.clients.environments [FOLDER]`; a second run that has nothing to do ends at once.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.install import InstallError, digest, install, say, stamp

HERE = Path(__file__).resolve().parent
LOCKS = sorted((HERE / "lock").glob("*.txt"))
NODE = HERE / "node"
FOLDER = Path(sys.prefix) / "clients"  # below `.venv`, which git ignores
DISK_GIB = 1


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for lock in LOCKS:
            install(folder / lock.stem, [lock], disk_gib=DISK_GIB)
        install_node()
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def install_node() -> None:
    """Brings `node_modules` to the state of `package-lock.json`. Raises InstallError."""
    lock = NODE / "package-lock.json"
    done = stamp(NODE / "node_modules", lock)
    if done.is_file() and done.read_text() == digest(lock):
        return
    if shutil.which("npm") is None:
        raise InstallError("npm is needed for the clients on Node: install Node 20 or newer")
    say(f"installing {lock.name} into {NODE / 'node_modules'}")
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    ran = subprocess.run(command, cwd=NODE, capture_output=True, text=True)
    if ran.returncode != 0:
        raise InstallError(f"npm ci failed: {(ran.stderr or ran.stdout).strip()[:500]}")
    done.write_text(digest(lock))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
