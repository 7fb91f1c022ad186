"""Each line of the README's table of clients works when pasted."""

import os
import re
import subprocess
from collections.abc import Mapping

import pytest

from tests.clients.environments import FOLDER, LOCKS, NODE
from tests.clients.test_clients_work import KEY, SILENCE, server
from tests.harness import ROOT, Server

__all__ = ["server"]  # the fixture

README = (ROOT / "README.md").read_text()
SECTION = README.partition("## The client that you have")[2].partition("\nPlatforms")[0]
ROWS = re.findall(r"^\| (.+?) \| .+? \| `(.+)` \|$", SECTION, re.MULTILINE)
BEFORE: Mapping[str, str] = dict(re.findall(r"```(python|js)\n(.+?)```", SECTION, re.DOTALL))
pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(("client", "line"), ROWS, ids=[client for client, _ in ROWS])
def test_it_works_when_pasted(server: Server, client: str, line: str):
    kind = "js" if client.startswith("Node") else "python"
    lines = BEFORE[kind].replace("http://127.0.0.1:8000", server.url).replace("no-key-needed", KEY)
    commands = [["node", "--input-type=module", "-e", lines + line]]
    if kind == "python":
        *setup, last = line.split("; ")
        program = "\n".join([lines, *setup, f"print({last})"])
        commands = [[str(FOLDER / lock.stem / "bin/python"), "-c", program] for lock in LOCKS]
    quiet = {**os.environ, **SILENCE}
    ran = [
        subprocess.run(command, cwd=NODE, env=quiet, capture_output=True, text=True, timeout=120)
        for command in commands
    ]
    there = [one for one in ran if "No module named" not in one.stderr]
    assert there, f"no environment has this client: {ran[0].stderr}"
    for one in there:
        assert one.returncode == 0, one.stderr
        assert "0.5095" in one.stdout or "0.0190" in one.stdout or "RerankResult" in one.stdout


def test_the_table_is_read():
    assert len(ROWS) > 20 and set(BEFORE) == {"python", "js"}
