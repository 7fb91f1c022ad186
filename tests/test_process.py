"""What happens when the engine or the launcher misbehaves. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serve import home
from serve.errors import StartError
from serve.home import Home
from tests.harness import FAKE_ENGINE, ROOT, Server, alive, wait_until, write_config


def start(tmp_path: Path, *options: str, config: str = "", **env: str) -> Server:
    return Server(write_config(tmp_path, config), tmp_path, *options, env=env)


def test_it_listens_at_once_and_says_what_it_waits_for(tmp_path: Path):
    with start(tmp_path, FAKE_BOOT="late") as server:
        early = server.get("/health/ready")
        assert early.status_code == 503 and early.headers["retry-after"]
        assert server.get("/health/live").ok
        refused = server.post("/rerank", {"query": "q", "passages": ["z"]})
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert "not ready" in refused.json()["message"]
        wait_until(lambda: phase(server)["phase"] == "downloading", 5)
        assert phase(server)["percent"] == 42
        server.until_ready()
    assert "downloading" in server.text() and "ready after" in server.text()


def test_a_silent_download_is_seen(tmp_path: Path):
    blobs = tmp_path / "hub" / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(b"x" * 1000)
    config = write_config(tmp_path, model="org/name")
    env = {"FAKE_BOOT": "hang", "HF_HOME": str(tmp_path)}
    with Server(config, tmp_path, env=env) as server:
        wait_until(lambda: phase(server)["bytes"] == 1000, 5, lambda: phase(server))
        assert phase(server)["phase"] == "downloading"


def phase(server: Server) -> dict:
    return server.get("/health/ready").json()["models"][0]["replicas"][0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals):
    with start(tmp_path) as server:
        below = server.until_ready().descendants()
        assert len(below) == 3  # guard, engine, engine core
        server.process.send_signal(number)
        assert server.wait() == 0
    assert not alive(below)
    assert server.left_over == []


def test_a_killed_launcher_takes_its_engine_with_it(tmp_path: Path):
    with start(tmp_path) as server:
        below = server.until_ready().descendants()
        server.kill()
        wait_until(lambda: not alive(below), 10, lambda: alive(below))
    assert server.left_over == []


def test_a_killed_launcher_takes_a_stubborn_engine_with_it(tmp_path: Path):
    with start(tmp_path, FAKE_STUBBORN="1") as server:
        below = server.until_ready().descendants()
        server.kill()
        wait_until(lambda: not alive(below), 15, lambda: alive(below))
    assert server.left_over == []


def test_a_server_started_again_at_once_is_left_alone_by_the_old_ones_guard(tmp_path: Path):
    with start(tmp_path, FAKE_STUBBORN="1") as first:
        below = first.until_ready().descendants()
        port = first.url.rsplit(":", 1)[1]
        first.kill()
        arguments = ("--port", port, "--run-dir", str(first.run_dir))
        (tmp_path / "second").mkdir()
        with Server(tmp_path / "fake.yaml", tmp_path / "second", *arguments) as second:
            second.until_ready()
            wait_until(lambda: not alive(below), 15)
            time.sleep(0.5)
            second.post("/rerank", {"query": "!drop", "passages": ["z"]})  # a new connection next
            assert len(second.rerank("q", ["a"])) == 1


def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path):
    with start(tmp_path, FAKE_STUBBORN="1") as server:
        below = server.until_ready().descendants()
        server.process.terminate()
        assert server.wait(20) == 0
    assert not alive(below)


def test_a_killed_guard_takes_its_engine_with_it(tmp_path: Path):
    with start(tmp_path) as server:
        below = server.until_ready().descendants()
        guard = min(pid for pid in below if b"guard.py" in cmdline(pid))
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not alive(below), 10, lambda: alive(below))
        wait_until(lambda: phase(server)["restarts"] == 1, 10)


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_an_engine_that_dies_is_restarted(tmp_path: Path):
    with start(tmp_path) as server:
        before = server.until_ready().descendants()
        answer = server.post("/rerank", {"query": "!die", "passages": ["z"]})
        assert answer.status_code == 503 and answer.headers["retry-after"]
        wait_until(lambda: not server.get("/health/ready").ok, 5)
        assert server.get("/health/live").ok
        wait_until(lambda: server.get("/health/ready").ok, 10, server.text)
        assert phase(server)["restarts"] == 1
        assert len(server.rerank("q", ["a"])) == 1
        assert not alive(before)  # the engine core, which the dead engine left, is gone too
    assert "the engine died" in server.text()


@pytest.mark.parametrize(
    ("boot", "words"),
    [
        ("die", "ValueError: the first error, which explains it"),
        ("oom", "not enough memory: stop what else uses it"),
    ],
)
def test_an_engine_that_cannot_start_is_one_clear_line(tmp_path: Path, boot: str, words: str):
    with start(tmp_path, FAKE_BOOT=boot) as server:
        assert server.wait() == 1
    last = server.text().strip().splitlines()[-1]
    assert last.startswith("error: fake: vLLM did not start: ")
    assert words in last and "its log: " in last
    assert "Traceback" not in server.text()


def test_an_engine_that_hangs_at_start_meets_the_deadline(tmp_path: Path):
    with start(tmp_path, config="limits: {start_timeout_s: 1}\n", FAKE_BOOT="hang") as server:
        below = server.descendants()
        assert server.wait() == 1
    assert "not ready after 1 s (it was starting): raise `limits: {start_timeout_s" in server.text()
    assert not alive(below)


def test_a_model_of_another_kind_than_declared(tmp_path: Path):
    with start(tmp_path, FAKE_BOOT="embedding") as server:
        assert server.wait() == 1
    assert "write `score: cosine`" in server.text()


def test_no_vllm_at_all(tmp_path: Path):
    with Server(write_config(tmp_path), tmp_path, vllm="/no/such/program") as server:
        assert server.wait() == 1
    assert "cannot start /no/such/program" in server.text()


def test_a_request_in_flight_is_finished_before_the_stop(tmp_path: Path):
    with start(tmp_path, FAKE_DELAY_S="0.8") as server:
        server.until_ready()
        answers: list[requests.Response] = []
        ask = threading.Thread(
            target=lambda: answers.append(server.post("/rerank", {"query": "q", "passages": ["z"]}))
        )
        ask.start()
        time.sleep(0.3)
        server.process.terminate()
        time.sleep(0.2)
        refused = server.post("/rerank", {"query": "q", "passages": ["z"]})
        assert refused.status_code == 503 and "stopping" in refused.json()["message"]
        assert not server.get("/health/ready").ok
        ask.join()
        assert answers[0].status_code == 200
        assert server.wait() == 0


def test_a_stop_does_not_wait_for_ever(tmp_path: Path):
    with start(tmp_path, config="limits: {stop_timeout_s: 0.5}\n") as server:
        server.until_ready()
        ask = threading.Thread(
            target=lambda: requests.post(
                server.url + "/rerank", json={"query": "!hang", "passages": ["z"]}, timeout=20
            )
        )
        ask.start()
        time.sleep(0.3)
        server.process.terminate()
        assert server.wait(10) == 0
        ask.join()


def test_too_many_pairs_in_flight(tmp_path: Path):
    config = "limits: {pairs_in_flight: 10}\n"
    with start(tmp_path, config=config, FAKE_DELAY_S="0.7") as server:
        server.until_ready()
        ask = threading.Thread(target=lambda: server.rerank("q", list("abcdefghijkl")))
        ask.start()  # more than the limit, but nothing else is in flight
        time.sleep(0.3)
        refused = server.post("/rerank", {"query": "q", "passages": ["z"]})
        assert refused.status_code == 429 and refused.headers["retry-after"]
        assert "pairs_in_flight" in refused.json()["message"]
        ask.join()
        assert len(server.rerank("q", ["a"])) == 1


def test_a_port_that_is_taken(tmp_path: Path):
    with start(tmp_path) as server:
        port = server.url.rsplit(":", 1)[1]
        again = run_serve("up", str(tmp_path / "fake.yaml"), "--port", port, "--vllm", FAKE_ENGINE)
    assert again.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in again.stderr
    assert "--port" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("up", "no-such-model"), 2, "give a config's name"),
        (("check", "no-such-model"), 2, "give a config's name"),
        (("argv", "nowhere.yaml"), 2, "cannot be read"),
        (("up", "minilm", "--api-key-file", "/no/file"), 2, "API key file cannot be read"),
        (("up", "minilm", "--host", "no.such.host.invalid"), 1, "give an address"),
        (("up", "minilm", "--port", "99999"), 2, "'99999' is no port: give 0 (any) to 65535"),
        (("up", "minilm", "--port", "-1"), 2, "--port"),
        (("serve",), 2, "invalid choice"),
        ((), 2, "COMMAND"),
        (("check", "minilm"), 0, ""),
    ],
)
def test_the_command_line(arguments: tuple[str, ...], status: int, words: str):
    done = run_serve(*arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_argv_prints_the_command():
    done = run_serve("argv", "bge-reranker-base", "--device", "gpu", "--vllm", "vllm-server")
    assert " vllm-server --model BAAI/bge-reranker-base --revision " in done.stdout


def test_stop(tmp_path: Path):
    with start(tmp_path) as server:
        server.until_ready()
        port = server.url.rsplit(":", 1)[1]
        done = run_serve("stop", "--port", port, "--run-dir", str(server.run_dir))
        assert done.stdout == f"port {port}: stopped\n"
        assert server.wait() == 0
        again = run_serve("stop", "--port", port, "--run-dir", str(server.run_dir))
        assert "no server of this user runs" in again.stdout


def test_a_wrong_digest_stops_the_start(tmp_path: Path):
    with start(tmp_path, config=f"sha256: {{config.json: '{'0' * 64}'}}\n") as server:
        assert server.wait() == 2
    assert "config.json is not the file that the config names" in server.text()


def test_not_enough_memory_stops_the_start(tmp_path: Path):
    config = "hardware: {memory_gib: 100000}\n"
    with start(tmp_path, "--device", "cpu", config=config) as server:
        assert server.wait() == 1
    assert "not enough memory: 100000 (fake) = 100000 GiB are needed" in server.text()


# -- keys --------------------------------------------------------------------------------------


def test_keys_guard_every_route_but_health(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecret-1\n\n")
    with start(tmp_path, "--api-key-file", str(keys), RERANK_API_KEY="secret-2") as server:
        server.until_ready()
        for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"):
            assert server.post(path, {"query": "q", "passages": ["z"]}).status_code == 401
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert server.get(path).status_code == 401
        for path in ("/health", "/health/live", "/health/ready"):
            assert server.get(path).ok
        for headers in (
            {"authorization": "Bearer secret-1"},
            {"authorization": "bearer secret-2"},
            {"authorization": "secret-1"},
            {"x-api-key": "secret-1"},
            {"api-key": "secret-2"},
        ):
            assert server.get("/v1/models", headers=headers).ok
        for headers in (
            {"authorization": "Bearer secret"},
            {"authorization": "Bearer "},
            {"x-api-key": ""},
            {"authorization": "Bearer wrong", "x-api-key": "secret-1"},
        ):
            refused = server.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "API key" in refused.json()["message"]
        below = server.descendants()
        environments = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in below)
        assert b"secret" not in environments + b"".join(map(cmdline, below))
    assert "secret" not in server.text()


def test_an_open_server_on_all_interfaces_warns(tmp_path: Path):
    with start(tmp_path, "--host", "0.0.0.0") as server:
        pass
    assert "no API key: anyone who reaches 0.0.0.0 may use this server" in server.text()


# -- the private directory -----------------------------------------------------------------------


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a path that leaves room for a Unix socket's."""
    with tempfile.TemporaryDirectory(prefix="rerank-") as folder:
        yield Path(folder)


def test_home_is_private_and_held_by_one(short_path: Path):
    with Home(short_path / "run", 1) as first:
        assert first.path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(StartError, match="another server holds"), Home(short_path / "run", 1):
            pass
    with Home(short_path / "run", 1) as again, again.engine(0) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_home_refuses_a_directory_that_others_may_enter(short_path: Path):
    (short_path / "run").mkdir(mode=0o755)
    (short_path / "run").chmod(0o755)
    with pytest.raises(StartError, match="chmod 700"), Home(short_path / "run", 1):
        pass


def test_home_removes_what_a_killed_server_left(short_path: Path):
    stale = short_path / "run" / "1" / "engine-0-old"
    stale.mkdir(parents=True, mode=0o700)
    for folder in (stale.parent, stale.parent.parent):
        folder.chmod(0o700)
    (stale / "http.sock").touch()
    with Home(short_path / "run", 1) as ours, ours.engine(0) as folder:
        assert list(folder.iterdir()) == []
        assert not stale.exists()


def test_home_refuses_a_path_that_no_socket_can_have(short_path: Path):
    with (
        Home(short_path / ("x" * 60), 1) as ours,
        pytest.raises(StartError, match="shorter --run-dir"),
        ours.engine(0),
    ):
        pass


def test_stopping_nothing(short_path: Path):
    assert home.stop(short_path, 1, timeout_s=1) is False
