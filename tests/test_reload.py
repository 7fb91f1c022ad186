"""`serve reload`: keys anew, engines anew, and nothing by halves."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from serve import home
from tests.harness import ROOT, Server, wait_until, write_config


def reload(server: Server) -> subprocess.CompletedProcess[str]:
    """What its user types."""
    port = str(urlsplit(server.url).port)
    command = ["reload", "--port", port, "--run-dir", str(server.run_dir)]
    return subprocess.run(
        [sys.executable, "-m", "serve", *command], cwd=ROOT, capture_output=True, text=True
    )


def status(server: Server, key: str) -> int:
    return server.post("/rerank", {"query": "q", "passages": ["a"]}, {"x-api-key": key}).status_code


def restarts(server: Server) -> list[int]:
    models = server.get("/health/ready").json()["models"]
    return [replica["restarts"] for replica in models[0]["replicas"]]


def test_keys_and_engines_are_renewed(tmp_path: Path):
    keys = tmp_path / "keys.txt"
    keys.write_text("first old-key\n")
    config = write_config(tmp_path, "replicas: 2\n")
    with Server(config, tmp_path, "--api-key-file", str(keys)) as server:
        server.until_ready()
        before = server.descendants()
        assert (status(server, "old-key"), status(server, "new-key")) == (200, 401)
        keys.write_text("first new-key requests=1000/minute\n")
        told = reload(server)
        assert told.returncode == 0 and "reloading" in told.stdout
        wait_until(lambda: " reloaded" in server.text(), 30, server.text)
        assert (status(server, "old-key"), status(server, "new-key")) == (401, 200)
        assert restarts(server) == [1, 1]
        assert not before & server.descendants()


def test_what_cannot_be_read_changes_nothing(tmp_path: Path):
    keys = tmp_path / "keys.txt"
    keys.write_text("old-key\n")
    with Server(write_config(tmp_path), tmp_path, "--api-key-file", str(keys)) as server:
        server.until_ready()
        before = server.descendants()
        keys.write_text("name new-key requests=often\n")
        reload(server)
        wait_until(lambda: "nothing was reloaded" in server.text(), 10, server.text)
        assert f"{keys}:1" in server.text() and "new-key" not in server.text()
        assert (status(server, "old-key"), restarts(server)) == (200, [0])
        assert server.descendants() == before


def test_there_may_be_no_server(tmp_path: Path):
    assert home.reload(tmp_path, 1) is False
    command = [sys.executable, "-m", "serve", "reload", "--port", "1", "--run-dir", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1 and "no server of this user runs" in told.stdout
