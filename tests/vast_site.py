"""A Vast.ai of our own for the tests of `deploy/vast`: hosts that run instances on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.vast import bundle
from deploy.vast.api import INTERVALS, Pace, Vast
from deploy.vast.command import main
from deploy.vast.desk import Desk
from deploy.vast.launch import Launch, Wish
from deploy.vast.notes import Notes
from deploy.vast.plan import needs_of
from deploy.vast.ready import Ready
from serve import stack_yaml
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
case "$1 $2" in
"-m venv")
  mkdir -p "$4/bin"
  printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > "$4/bin/python"
  chmod +x "$4/bin/python" ;;
"-m pip") ;;
*) exec {sys.executable} "$@" ;;
esac
"""


def quick_host(folder: Path, **more: str) -> dict[str, str]:
    """The variables of an instance that starts at once: a fake engine, nothing to install."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    python = programs / "python3"
    python.write_text(QUICK_PYTHON)
    python.chmod(0o755)
    return {**FAKE_HOST, "PATH": f"{programs}:/usr/bin:/bin", **more}


def real_host() -> dict[str, str]:
    """The variables of an instance with the real vLLM and everything still to install."""
    return {**REAL_HOST, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


def quick_pace() -> Pace:
    """As Vast.ai's limits have it, a hundred times as fast."""
    return Pace({kind: seconds / 100 for kind, seconds in INTERVALS.items()})


class Site:
    """A fake Vast.ai, and a desk in front of it where nothing has to wait long."""

    def __init__(self, fake: FakeVast, folder: Path) -> None:
        self.fake, self.folder = fake, folder
        self.lines: list[str] = []
        self.notes = Notes(folder / "home state" / "rerank-serve" / "vast")
        vast = Vast(fake.key, fake.url, pace=quick_pace(), timeout_s=2)
        self.desk = Desk(vast, self.notes, self.lines.append, quick_pace())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wish(self, model: str = "minilm", **more: object) -> Wish:
        """A wish for a model, agreed to beforehand, for hosts that start in seconds."""
        stack = stack_yaml.find(model)
        wanted = {"yes": True, "port": free_port(), "timeout_s": 20, **more}
        return Wish(stack.default, needs_of(stack), bundle.build(model, stack), **wanted)

    def launch(self, ask: Callable[[str], bool] = lambda _: True, **wish: object) -> list[Ready]:
        """What a launch told: one deployment, unless it raises."""
        told: list[Ready] = []
        Launch(self.desk, self.wish(**wish), ask, told.append).up()
        return told

    def creates(self) -> int:
        """How often Vast.ai was asked to create an instance."""
        return sum(event.get("endpoint") == "create" for event in self.fake.journal())

    def alive(self) -> dict[int, str]:
        """The label of each instance that there is, and may cost money."""
        return {row["id"]: row["label"] for row in self.fake.instances()}

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a user whose account is on this site."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "home state"),  # with a space, as paths may have
            "VAST_API_KEY": self.fake.key,
            "VAST_URL": self.fake.url,
            **more,
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The command line, typed by that user, with quick calls; it is not waited for."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.vast_site", "vast", *arguments],
            cwd=ROOT,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of the command line."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], pace=quick_pace()))
