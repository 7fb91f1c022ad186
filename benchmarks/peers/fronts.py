"""What stands in front of the engine: our gateway, LiteLLM's proxy, HAProxy, a bare relay; each one
process."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.peers import environments
from benchmarks.peers.served import UNCACHED
from benchmarks.peers.wire import Address, WrongAnswer, ask, request
from benchmarks.peers.zero_engine import MODEL
from deploy.install import InstallError
from tests.harness import Server

ROOT = Path(__file__).parents[2]
START_S = 90
# Production's settings: no debugging, no callbacks; and no list of prices fetched.
LITELLM_ENV = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
HAPROXY = """\
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend engine
backend engine
  server engine unix@{socket}
"""


class FrontError(Exception):
    """A proxy that cannot be had or started: why."""


@dataclass(frozen=True)
class Front:
    """Where a proxy listens, and its process, None for the engine itself."""

    name: str
    address: Address
    process: psutil.Process | None = None

    def cpu_s(self) -> float:
        """Processor time that it has used, user's and system's."""
        times = self.process.cpu_times() if self.process else None
        return times.user + times.system if times else 0.0


@contextmanager
def gateway(key: str) -> Iterator[tuple[Front, Front, int]]:
    """Our gateway, which asks for `key`, the engine under it, and the engine's port."""
    with tempfile.TemporaryDirectory() as name:
        work, port = Path(name), free_port()
        weights = work / "weights"
        weights.mkdir()
        (weights / "config.json").write_text("{}")
        config = {"model": str(weights), "names": [MODEL], **UNCACHED}
        (work / "rerank.yaml").write_text(yaml.safe_dump(config))
        engine = f"{sys.executable} -m benchmarks.peers.zero_engine {port}"
        env = {"RERANK_API_KEY": key}
        with Server(work / "rerank.yaml", work, vllm=engine, env=env) as server:
            server.until_ready(START_S)
            found = next(server.run_dir.glob("*/engine-0-*/http.sock"))
            ours = Address(int(server.url.rpartition(":")[2]))
            process = psutil.Process(server.process.pid)
            yield Front("ours", ours, process), Front("engine", Address(socket=str(found))), port


@contextmanager
def litellm(engine_port: int, key: str, cache: Path, env: Mapping[str, str]) -> Iterator[Front]:
    """LiteLLM's proxy with one worker; it starts with no weaker key. Raises FrontError."""
    try:
        python = environments.python("litellm", cache / "peers")
    except (InstallError, OSError) as error:
        raise FrontError(f"its environment cannot be made: {error}") from error
    port = free_port()
    api = {"api_base": f"http://127.0.0.1:{engine_port}", "api_key": "none"}
    model = {"model_name": MODEL, "litellm_params": {"model": f"hosted_vllm/{MODEL}", **api}}
    config = {
        "model_list": [model],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": key},
    }
    command = [str(python.parent / "litellm"), "--host", "127.0.0.1", "--port", str(port)]
    with _running(
        "litellm", command, "--config", yaml.safe_dump(config), port, key, {**env, **LITELLM_ENV}
    ) as front:
        yield front


@contextmanager
def haproxy(engine: Address, key: str, env: Mapping[str, str]) -> Iterator[Front]:
    """HAProxy with one thread, to be like with like. Raises FrontError."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise FrontError("it is not installed (Debian: apt-get install haproxy)")
    port = free_port()
    config = HAPROXY.format(port=port, socket=engine.socket)
    with _running("haproxy", [program, "-db"], "-f", config, port, key, env) as front:
        yield front


@contextmanager
def relay(engine: Address, key: str, env: Mapping[str, str]) -> Iterator[Front]:
    """What any proxy in Python costs at least. Raises FrontError."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.relay", str(port), str(engine.socket)]
    with _running("relay", command, None, "", port, key, {**env, "PYTHONPATH": str(ROOT)}) as front:
        yield front


@contextmanager
def _running(
    name: str,
    command: list[str],
    option: str | None,
    config: str,
    port: int,
    key: str,
    env: Mapping[str, str],
) -> Iterator[Front]:
    """A program, with its config in the file behind `option`, until it answers right. Raises
    FrontError."""
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile() as log:
        file = Path(work) / "config.yaml"
        file.write_text(config)
        whole = [*command, option, str(file)] if option else command
        with subprocess.Popen(whole, cwd=work, env=env, stdout=log, stderr=log) as process:
            try:
                front = Front(name, Address(port), psutil.Process(process.pid))
                if not _answers(front, key, process):
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    raise FrontError(f"it does not start: {' '.join(lines[-1:])[:300]}")
                yield front
            finally:
                process.kill()


def _answers(front: Front, key: str, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until a question is answered."""
    whole = request(b'{"model":"%s","query":"q","documents":["a"]}' % MODEL.encode(), key)
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return bool(ask(front.address, whole))
        except WrongAnswer:
            time.sleep(0.2)
    return False


def free_port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
