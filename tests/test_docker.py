"""The container: its files linted, its tree copied and run alone, its commands run for real.

No engine builds an image here. What one would do is done by hand: files are sent as `.dockerignore`
has it and copied as the Dockerfile's COPYs have it; its last RUN, its HEALTHCHECK and its
ENTRYPOINT run in that copy, on the packages of `deploy/lock/gateway.txt` alone.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import requests
import yaml

from deploy import install
from deploy.docker import ready
from serve import __main__ as command_line
from serve import __version__, argv, process, stack_yaml, supervise
from serve.auth import Keys
from serve.errors import Unauthorized
from serve.key_file import read_keys
from tests.certificates import self_signed
from tests.harness import FAKE_ENGINE, KEY, ROOT, wait_until

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE_FILE = DOCKER / "compose.yaml"
PYTHON = "/opt/gateway/bin/python"
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
# The first message of an agent, to `/mcp`, and what it reads.
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
BOTH = "application/json, text/event-stream"
# What a checkout may hold, and must not be sent to a builder.
PRIVATE = """.git/config .venv/bin/python .env keys.txt api-keys.txt deploy/docker/api-keys.txt
    id_ed25519 serve/__pycache__/spec.cpython-311.pyc serve/__pycache__/x.nbi serve/spec.pyc
    deploy/vast/state.json deploy/lock/cpu.txt tests/conftest.py README.md""".split()


def instructions(text: str = DOCKERFILE) -> list[tuple[str, str]]:
    """A Dockerfile's instructions: their names and what follows, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.split("\n")]


def all_of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def the(name: str) -> str:
    """What follows an instruction that stands in the Dockerfile once."""
    (rest,) = all_of(name)
    return rest


def exec_form(text: str) -> list[str]:
    """The words of an instruction in the exec form. Fails on the shell form."""
    words = json.loads(text)
    assert isinstance(words, list) and all(isinstance(word, str) for word in words)
    return words


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in all_of("ENV") for pair in shlex.split(rest))


def copies() -> list[tuple[str, str]]:
    """Each COPY: a source in the repository and where it goes, below WORKDIR."""
    pairs = [rest.split() for rest in all_of("COPY")]
    assert all(len(pair) == 2 and not pair[0].startswith("--") for pair in pairs)
    return [(source, target) for source, target in pairs]


def health_check() -> tuple[dict[str, str], list[str]]:
    """The options of HEALTHCHECK, and its command."""
    options, _, command = the("HEALTHCHECK").partition("CMD ")
    return dict(re.findall(r"--([a-z-]+)=(\S+)", options)), exec_form(command)


def compose() -> dict[str, Any]:
    """compose.yaml, with the default of each variable in its place."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE_FILE.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def service() -> dict[str, Any]:
    ((_, only),) = compose()["services"].items()
    loaded: dict[str, Any] = only
    return loaded


def seconds(text: str) -> int:
    amount, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(amount) * {"s": 1, "m": 60, "h": 3600}[unit]


def is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a file reach the builder: the last pattern that matches it, or a
    folder that it is in, decides."""
    candidates = [path, *map(str, PurePosixPath(path).parents)]
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.removeprefix("!"))
        pattern = pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, candidate) for candidate in candidates):
            sent = line.startswith("!")
    return sent


def files_below(source: str) -> list[Path]:
    path = ROOT / source
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has in WORKDIR: what is sent of what COPY names, and nothing else."""
    folder = tmp_path_factory.mktemp("image") / "app"
    for source, target in copies():
        for file in files_below(source):
            if is_sent(file.relative_to(ROOT).as_posix()):
                copy = folder / target / file.relative_to(ROOT / source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of gateway.txt alone."""
    folder = tmp_path_factory.mktemp("gateway")
    for requirement in install.requirements(install.LOCKS / "gateway.txt"):
        package = metadata.distribution(requirement.split("==")[0])
        for name in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(package.locate_file(name))))
    return folder


class Container:
    """The ENTRYPOINT, run in the copied tree. Use as a context manager, once started.

    Only for what cannot be here something stands in: this Python and a free port, the fake engine
    for vLLM, loopback for every interface, folders of the test for the container's.
    """

    def __init__(self, app: Path, packages: Path, work: Path, **fake: str) -> None:
        self.app = app
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.trusting: Path | None = None  # the certificate behind an https:// URL
        self.temporary = Path(tempfile.mkdtemp(prefix="rr-"))  # short, as Unix sockets need it
        self.log = work / "log"
        homed = {k: v.replace("/home/rerank", str(work)) for k, v in environment().items()}
        self.env = {**homed, **fake, "TMPDIR": str(self.temporary), "PYTHONPATH": str(packages)}

    def here(self, words: list[str]) -> list[str]:
        """A command of the Dockerfile as it can be run here. -S: no other packages are seen."""
        stand_ins = {
            f"python3 {shlex.join(argv.ENTRY)}": FAKE_ENGINE,
            "0.0.0.0": "127.0.0.1",
            "8000": str(self.port),
        }
        assert words[0] == PYTHON
        rest = [stand_ins.get(w, w.replace("/app", str(self.app))) for w in words[1:]]
        return [sys.executable, "-S", *rest]

    def start(self, command: Sequence[str]) -> "Container":
        """Runs it with `command`, MODEL and options, behind it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.here(exec_form(the("ENTRYPOINT"))), *command],
                cwd=self.app,
                env={"PATH": os.environ["PATH"], **self.env},
                stdout=output,
                stderr=output,
            )
        return self

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def health(self) -> subprocess.CompletedProcess[str]:
        """What the HEALTHCHECK says."""
        command = [*self.here(health_check()[1]), str(self.port)]
        environment = {"http_proxy": "http://127.0.0.1:9", **self.env}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def until_healthy(self) -> None:
        wait_until(lambda: self.health().returncode == 0, 20, self.log.read_text)

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        trust = str(self.trusting) if self.trusting else True
        return requests.post(self.url + path, json=body, headers=headers, timeout=30, verify=trust)

    def rerank(self, **headers: str) -> requests.Response:
        return self.post("/rerank", {"query": "a fruit?", "passages": ["apple", "saw"]}, **headers)


# -- the Dockerfile ----------------------------------------------------------------------------


def hadolint(path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Every finding of hadolint, which reads its settings from `cwd`."""
    command = [str(Path(sys.executable).with_name("hadolint")), str(path)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_hadolint_finds_nothing_and_no_rule_is_off(tmp_path: Path):
    found = hadolint(DOCKER / "Dockerfile", tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert "hadolint" not in DOCKERFILE
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /x && echo $(ls)\n")
    assert "DL3007" in hadolint(tmp_path / "Dockerfile", tmp_path).stdout


def test_the_base_is_the_vllm_that_is_pinned_everywhere():
    pins = install.requirements(install.LOCKS / "gpu.txt")
    (version,) = [pin.removeprefix("vllm==") for pin in pins if pin.startswith("vllm==")]
    assert instructions()[0] == ("ARG", f"VLLM_TAG=v{version}")
    assert the("FROM") == "vllm/vllm-openai:${VLLM_TAG}"
    assert service()["build"]["args"] == {"VLLM_TAG": f"v{version}"}


def test_the_packages_are_those_that_the_tests_run_on():
    def pins(lock: str) -> set[str]:
        lines = install.requirements(install.LOCKS / lock)
        return {line.lower().replace("_", "-") for line in lines}

    assert pins("gateway.txt") <= pins("cpu.txt")


def test_packages_come_before_sources_and_leave_nothing_else():
    steps = [" ".join(pair) for pair in instructions()]
    (at,) = [i for i, step in enumerate(steps) if "pip" in step and step.startswith("RUN")]
    assert steps[at - 1].startswith("COPY deploy/lock/gateway.txt ")
    assert not any(step.startswith("COPY serve") for step in steps[:at])
    assert {"--no-deps", "--no-cache-dir", "-r"} <= set(steps[at].split())
    assert f"--python {PYTHON} " in steps[at]


def test_the_user_is_a_number_and_not_root():
    uid, gid = the("USER").split(":")
    assert int(uid) > 0 and int(gid) > 0
    assert f"--uid {uid} --gid {gid} " in all_of("RUN")[0]
    assert f"-m 0700 -o {uid} -g {gid} {the('VOLUME')}" in all_of("RUN")[0]


def test_all_that_is_kept_is_on_the_volume():
    env = environment()
    assert env["HOME"] == the("VOLUME")
    for name in ("HF_HOME", "PYTHONPYCACHEPREFIX"):
        assert PurePosixPath(env[name]).is_relative_to(env["HOME"])
    assert service()["volumes"] == [f"home:{env['HOME']}"]
    assert "home" in compose()["volumes"]


def test_no_secret_has_a_place_in_the_image():
    names = [rest.split("=")[0] for rest in all_of("ARG")] + list(environment())
    assert names and not any(map(SECRET_NAME.search, names))
    assert "--api-key-file" not in exec_form(the("ENTRYPOINT")) + exec_form(the("CMD"))


def test_the_labels_tell_what_this_is():
    labels = dict(pair.split("=", 1) for pair in shlex.split(the("LABEL")))
    named = {name.removeprefix("org.opencontainers.image."): v for name, v in labels.items()}
    assert named["version"] == __version__
    assert (
        named["licenses"] == "Apache-2.0"
        and 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    )
    assert named["revision"] == "${REVISION}" and 'REVISION=""' in all_of("ARG")


def test_the_signal_reaches_the_gateway():
    assert the("STOPSIGNAL") == "SIGTERM" == service()["stop_signal"]
    assert exec_form(the("ENTRYPOINT"))[0] == PYTHON
    assert exec_form(the("CMD"))


# -- what is copied ----------------------------------------------------------------------------


def test_every_source_of_a_copy_exists_and_is_sent():
    assert len(copies()) > 3
    for source, target in copies():
        assert source == target, "the image has the repository's own layout"
        assert any(is_sent(file.relative_to(ROOT).as_posix()) for file in files_below(source))


@pytest.mark.parametrize("path", PRIVATE)
def test_what_is_private_or_idle_is_not_sent(path: str):
    assert not is_sent(path)


@pytest.mark.parametrize(
    "path",
    [
        "serve/__main__.py",
        "serve/page/index.html",
        "serve/dialects/tei.py",
        "configs/templates/bge-reranker-v2-gemma.jinja",
        "deploy/lock/gateway.txt",
    ],
)
def test_what_the_gateway_needs_is_sent_and_copied(app: Path, path: str):
    assert is_sent(path) and (ROOT / path).read_bytes() == (app / path).read_bytes()


def test_the_checks_of_the_build_pass_in_the_copied_tree(app: Path, packages: Path):
    check = all_of("RUN")[-1]
    assert f"{PYTHON} -m serve check" in check and "python3 -c" in check
    check = check.replace(PYTHON, f"PYTHONPATH={packages} {sys.executable} -S")
    check = check.replace("python3 -c", f"{sys.executable} -c")  # whose vLLM is of that release
    done = subprocess.run(["sh", "-c", check], cwd=app, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "minilm: good, on a GPU" in done.stdout

    (app / "configs" / "minilm.yaml").rename(app / "configs" / "lost")
    try:
        done = subprocess.run(["sh", "-c", check], cwd=app, capture_output=True, text=True)
        assert done.returncode == 2, "that tree is not the one that was checked"
    finally:
        (app / "configs" / "lost").rename(app / "configs" / "minilm.yaml")


# -- what is run -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["minilm"], service()["command"]], ids=["image", "compose"])
def test_the_commands_are_ones_that_the_gateway_takes(command: list[str]):
    given = exec_form(the("ENTRYPOINT"))
    assert given[1:3] == ["-m", "serve"]
    options = command_line._parser().parse_args([*given[3:], *command])
    assert options.command is command_line.up
    assert (options.host, options.port, options.device) == ("0.0.0.0", 8000, "gpu")
    assert tuple(shlex.split(options.vllm)) == ("python3", *argv.ENTRY)
    assert stack_yaml.find(options.model).models
    assert the("EXPOSE") == str(options.port) == str(ready.PORT)
    assert exec_form(the("CMD")) == ["minilm"]


def test_the_image_starts_tells_its_health_and_drains(app: Path, packages: Path, tmp_path: Path):
    made = Container(app, packages, tmp_path, FAKE_DELAY_S="1")
    with made.start(["bge-reranker-v2-m3"]) as container:
        wait_until(lambda: container.health().stdout, 20, container.log.read_text)
        starting = container.health()  # its warm-up takes seconds
        assert starting.returncode == 1 and not json.loads(starting.stdout)["ready"]
        container.until_healthy()
        private = container.temporary / f"rerank-serve-{os.getuid()}"
        assert stat.S_IMODE(private.stat().st_mode) == 0o700

        with ThreadPoolExecutor() as pool:
            answer = pool.submit(container.rerank)
            wait_until(lambda: '"pairs_in_flight":2' in container.health().stdout, 20)
            container.process.send_signal(signal.SIGTERM)
            assert answer.result().status_code == 200
        assert container.process.wait(20) == 0
        assert "stopping: 1 requests in flight" in container.log.read_text()
        gone = container.health()
        assert gone.returncode == 1 and gone.stderr.startswith("no answer: ")


@pytest.mark.parametrize("speaks", ["http", "https"])
def test_what_compose_starts_wants_a_key_of_its_secret(
    app: Path, packages: Path, tmp_path: Path, speaks: str
):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    command = [w.replace("/run/secrets/api-keys", str(keys)) for w in service()["command"]]
    made = Container(app, packages, tmp_path)
    if speaks == "https":
        certificate = self_signed(tmp_path, "server")
        command += certificate.arguments
        made.url, made.trusting = f"https://{made.address}", certificate.pem
    with made.start(command) as container:
        container.until_healthy()
        assert container.rerank().status_code == 401
        assert container.rerank(authorization=f"Bearer {KEY}").status_code == 200
        hello = container.post("/mcp", INITIALIZE, authorization=f"Bearer {KEY}", accept=BOTH)
        assert hello.status_code == 200, hello.text  # whose packages are imported only now
        container.process.terminate()
        assert container.process.wait(20) == 0
        assert "Traceback" not in container.log.read_text()


# -- compose.yaml ------------------------------------------------------------------------------


def test_compose_builds_and_names_this_image():
    build = service()["build"]
    context = (DOCKER / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]).read_text() == DOCKERFILE
    name = f"rerank-serve:{__version__}"
    assert service()["image"] == name
    assert f"-t {name} ." in DOCKERFILE and f"{name} bge-reranker-v2-m3" in DOCKERFILE
    assert "latest" not in DOCKERFILE + COMPOSE_FILE.read_text()


def test_compose_asks_for_the_health_as_the_image_does():
    check = dict(service()["healthcheck"])
    options, command = health_check()
    assert check.pop("test") == ["CMD", *command]
    assert {name.replace("_", "-"): str(value) for name, value in check.items()} == options


def test_the_first_start_has_the_time_that_it_may_take():
    models = [
        m
        for served in (exec_form(the("CMD"))[0], service()["command"][0])
        for m in stack_yaml.find(served).models
    ]
    options, _ = health_check()
    longest = max(model.limits.start_timeout_s for model in models)
    assert seconds(options["start-period"]) >= longest
    assert seconds(options["timeout"]) > 2 * ready.TIMEOUT_S


def test_nobody_is_killed_in_the_middle_of_a_stop():
    models = stack_yaml.find(service()["command"][0]).models
    draining = max(model.limits.stop_timeout_s for model in models)
    grace = seconds(service()["stop_grace_period"])
    assert grace > draining + supervise.KILL_AFTER_S + process.LAST_WORDS_S
    assert f"--stop-timeout {grace} " in DOCKERFILE


def test_compose_gives_no_more_than_is_needed():
    given = service()
    assert given["cap_drop"] == ["ALL"] and given["read_only"] and given["init"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["ports"] == [f"127.0.0.1:8000:{the('EXPOSE')}"]
    assert not {"privileged", "cap_add", "ipc", "pid", "network_mode", "user"} & set(given)
    (path,) = given["tmpfs"]
    assert path.startswith("/tmp:") and "exec" in path.split(":")[1].split(",")


def test_compose_reserves_the_one_gpu_that_the_shares_are_of():
    (gpu,) = service()["deploy"]["resources"]["reservations"]["devices"]
    assert gpu == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_keys_come_as_a_file_that_git_never_takes():
    given, secrets = service(), compose()["secrets"]
    assert given["secrets"] == list(secrets) == ["api-keys"]
    assert "/run/secrets/api-keys" in given["command"]
    file = (DOCKER / secrets["api-keys"]["file"]).relative_to(DOCKER).as_posix()
    assert file in (DOCKER / ".gitignore").read_text().splitlines()
    assert not is_sent(f"deploy/docker/{file}")
    assert not any(map(SECRET_NAME.search, given.get("environment", {})))
    assert not re.search(r"sha256:\w{64}|hf_\w{30}", COMPOSE_FILE.read_text())


def test_the_way_to_make_a_key_works(tmp_path: Path):
    (tmp_path / "deploy" / "docker").mkdir(parents=True)
    commented = [line[4:] for line in COMPOSE_FILE.read_text().splitlines() if line[:4] == "#   "]
    *make, up = commented
    assert up.startswith("docker compose -f deploy/docker/compose.yaml up ")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(make)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert len(key) == 64
    file = tmp_path / "deploy" / "docker" / "api-keys.txt"
    assert key not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o644
    Keys(read_keys(file)).check({"x-api-key": key})
    with pytest.raises(Unauthorized):
        Keys(read_keys(file)).check({"x-api-key": key[:-1]})


def compose_client() -> list[str] | None:
    """Compose as a plugin of docker, or as a program of its own; None without either."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]):
            asked = subprocess.run([*client, "version"], capture_output=True)
            if asked.returncode == 0:
                return client
    return None


def test_compose_itself_reads_it_as_we_do():
    client = compose_client()
    if client is None:
        pytest.skip("no Compose: install Docker's plugin, or Debian's docker-compose")
    done = subprocess.run(
        [*client, "-f", str(COMPOSE_FILE), "config"],
        env={"PATH": os.environ["PATH"], "RERANK_PORT": "9000"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    read = yaml.safe_load(done.stdout)["services"]["rerank"]
    for key in ("command", "image", "read_only", "cap_drop", "security_opt", "tmpfs", "deploy"):
        assert read[key] == service()[key], key
    assert read["healthcheck"]["test"] == service()["healthcheck"]["test"]
    assert "9000" in str(read["ports"]) and "127.0.0.1" in str(read["ports"])
