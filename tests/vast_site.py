"""A Vast.ai of our own for the tests of `deploy/vast`: hosts that run instances on this machine."""

import sys
from pathlib import Path

from deploy.vast.api import INTERVALS, Pace, Vast
from deploy.vast.desk import Desk
from deploy.vast.notes import Notes
from tests.fake_vast import FakeVast, free_port, offer
from tests.harness import FAKE_ENGINE, ROOT

__all__ = ["FAKE_HOST", "REAL_HOST", "Site", "free_port", "offer", "quick_host"]

# What the hosts have: no GPU, and for a `python3` with vLLM the one that runs the tests.
REAL_HOST = {"RERANK_DEVICE": "cpu"}
FAKE_HOST = {
    **REAL_HOST,
    "RERANK_VLLM": FAKE_ENGINE,
    "FAKE_BOOT": "embedding",
    "FAKE_SCORES": "shared",
}
# A python3 whose new environments have everything at once, as where a host's cache has it.
QUICK_PYTHON = f"""#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  printf '#!/bin/sh\\n[ "$2" = pip ] || exec {sys.executable} "$@"\\n' > "$3/bin/python"
  chmod +x "$3/bin/python"
else
  exec {sys.executable} "$@"
fi
"""


def quick_host(folder: Path, **more: str) -> dict[str, str]:
    """The variables of an instance whose start takes a second: a fake engine, nothing to install."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    python = programs / "python3"
    python.write_text(QUICK_PYTHON)
    python.chmod(0o755)
    return {**FAKE_HOST, "PATH": f"{programs}:/usr/bin:/bin", **more}


def real_host() -> dict[str, str]:
    """The variables of an instance with the real vLLM and everything still to install."""
    return {**REAL_HOST, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


class Site:
    """A fake Vast.ai, and a desk in front of it where nothing has to wait long."""

    def __init__(self, fake: FakeVast, folder: Path) -> None:
        self.fake = fake
        self.lines: list[str] = []
        pace = Pace({kind: seconds / 100 for kind, seconds in INTERVALS.items()})
        self.notes = Notes(folder / "state")
        vast = Vast(fake.key, fake.url, pace)
        self.desk = Desk(vast, self.notes, self.lines.append, poll_s=0.1)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
