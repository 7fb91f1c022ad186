"""The start script of an instance: read by shellcheck, and run as it is sent, as a process here.

A container's runtime ends what a script leaves behind; here nothing does, so that what is left is
seen. The engine is a fake, and nothing is installed (`quick_host`).
"""

import hashlib
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import pin
from deploy.vast import bundle
from deploy.vast.instance import WAITING, Said, said
from deploy.vast.launch import BOOT
from deploy.vast.plan import LONGEST_SCRIPT, packed
from serve import stack_yaml
from tests.certificates import openssl
from tests.harness import ROOT, wait_until
from tests.vast_site import free_port, quick_host

WRITTEN = BOOT.read_text()
SCRIPT = packed(WRITTEN)
SHELLCHECK = str(ROOT / ".venv" / "bin" / "shellcheck")  # without SC2015: `A && B || end` is meant
KEY = "rk-the-endpoints-key"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
SECRETS = {"CONTAINER_API_KEY": "instance-secret", "HF_TOKEN": "hf_secret"}
BEARER = {"authorization": f"Bearer {KEY}"}
PASSAGES = ["no word of it", "What is Deep Learning?"]


# ------------------------------------------------------------------------------------ as it is read


def test_it_is_good_bash():
    for command in (["bash", "-n"], [SHELLCHECK, "--shell=bash", "--exclude=SC2015", "-"]):
        done = subprocess.run(command, input=WRITTEN, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_length(record_property: Callable[[str, object], None]):
    length = len("/bin/bash" + "-c" + SCRIPT)
    words = f"start script: {length} of {LONGEST_SCRIPT} characters, {len(WRITTEN)} before"
    record_property("measured", words)
    assert length <= LONGEST_SCRIPT and SCRIPT.isascii()


@settings(max_examples=20)
@given(st.text(), st.integers(0, 99))
def test_what_is_sent_is_what_is_written(text: str, status: int):
    """To the byte: this one prints itself, and is read no further."""
    written = f'cat "$0"; exit {status}\n{text}'
    sent = packed(written)
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(["/bin/bash", "-c", sent], env={"HOME": home}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, written.encode(), b"")
    assert " ".join(["-c", sent]).split() == shlex.split(f"-c {sent}") == ["-c", sent]


# --------------------------------------------------------------------------------------- as it runs

PROGRAM = bundle.build("minilm", stack_yaml.find("minilm"))


class Machine:
    """The start script, run as an instance does; again, if it is started again. Use as a context
    manager, whose end leaves nothing."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="rb-", dir="/tmp"))  # short, as sockets need it
        self.log = folder / "log"
        self.env = {
            **quick_host(folder),
            **SECRETS,
            "HOME": str(folder),
            "PUBLIC_IPADDR": "127.0.0.1\n",
            "CONTAINER_ID": "31",
            "VAST_URL": "http://127.0.0.1:1",  # nobody
            "RERANK_HOME": str(self.home),
            "RERANK_MODEL": "minilm",
            "RERANK_API_KEY": f"sha256:{DIGEST}",
            "RERANK_BUNDLE": PROGRAM.digest,
            "RERANK_HOST": "127.0.0.1",
            "RERANK_PORT": str(free_port()),
            **env,
        }
        self.address = ("127.0.0.1", int(self.env["RERANK_PORT"]))
        self.url = f"https://127.0.0.1:{self.address[1]}"
        self.certificate = self.home / "certificate.pem"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.script.wait()
            time.sleep(0.02)
        shutil.rmtree(self.home)

    def start(self, script: str = SCRIPT, **env: str) -> Self:
        self.env |= env
        self.log.write_text("")
        with self.log.open("ab") as log:
            self.script = subprocess.Popen(
                ["/bin/bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.env["HOME"],
                env=self.env,
            )
        return self

    def with_program(self) -> Self:
        """As where it was given before."""
        (self.home / "program.tgz").write_bytes(PROGRAM.content)
        return self

    def text(self) -> str:
        return self.log.read_text()

    @property
    def said(self) -> Said:
        return said(self.text())

    def until(self, step: str) -> Self:
        wait_until(lambda: self.said.step == step, 30, self.text)
        return self

    def until_waiting(self) -> Self:
        self.until(WAITING)
        wait_until(self._listens, 30, self.text)
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0

    def until_ready(self) -> Self:
        wait_until(lambda: self._answers() == 200, 30, self.text)
        return self

    def _answers(self) -> int | None:
        assert self.script.poll() is None, self.text()
        try:
            return self.ask("GET", "/health/ready").status_code
        except OSError:  # of the connection, or there is no certificate yet
            return None

    def ask(self, method: str, path: str, **more: object) -> requests.Response:
        """By whoever trusts its certificate as one trusts any."""
        return requests.request(
            method, self.url + path, verify=str(self.certificate), timeout=20, **more
        )

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.certificate)
        plain = socket.create_connection(self.address, timeout=20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def processes(self) -> list[int]:
        """All that have come from the script and run."""
        mark = f"RERANK_HOME={self.home}".encode()
        return [pid for pid in pids() if mark in read(f"/proc/{pid}/environ").split(b"\0")]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as machine:
        yield machine


# ---------------------------------------------------------------------------------- the certificate


def test_the_certificate(machine: Machine):
    machine.start(PUBLIC_IPADDR=" 203.0.113.7\n").until_waiting()
    shown = openssl("x509", "-noout", "-ext", "subjectAltName,keyUsage", "-in", machine.certificate)
    assert "IP Address:203.0.113.7, IP Address:127.0.0.1, DNS:localhost" in shown
    assert "critical\n    Digital Signature, Certificate Sign" in shown
    modes = {path.name: path.stat().st_mode & 0o777 for path in machine.home.iterdir()}
    assert modes == {"key.pem": 0o600, "certificate.pem": 0o600}
    context = ssl.create_default_context(cafile=machine.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with (
        socket.create_connection(machine.address, timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        certificate = tls.getpeercert(binary_form=True) or b""
    assert machine.said.fingerprint == pin.fingerprint_of(certificate)


def test_the_certificate_stays_while_the_address_does(machine: Machine):
    heard = []
    for address in ("127.0.0.1", "127.0.0.1\n", "203.0.113.7", "203.0.113.7"):
        machine.start(PUBLIC_IPADDR=address, RERANK_PORT=str(free_port())).until(WAITING)
        heard.append(machine.said)
        kept = (machine.certificate.read_bytes(), (machine.home / "key.pem").read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(machine.certificate, machine.home / "key.pem")  # a pair
        assert b"" not in kept
        machine.script.kill()
        machine.script.wait()
    first, second, third, fourth = (each.fingerprint for each in heard)
    assert first == second != third == fourth
    assert len({each.run for each in heard}) == 4


def test_its_words_may_go_elsewhere(machine: Machine, tmp_path: Path):
    """As where an SSH server is in front."""
    output = tmp_path / "output"
    machine.start(RERANK_OUTPUT=str(output))
    wait_until(lambda: output.exists() and said(output.read_text()).step == WAITING, 30)
    assert machine.text() == ""


# ----------------------------------------------------------------------- it waits for our program


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("waiting")) as machine:
        yield machine.start().until_waiting()


@pytest.mark.parametrize(
    ("method", "headers", "body", "status"),
    [
        ("GET", {}, None, 503),
        ("GET", {"x-api-key": KEY}, None, 503),
        ("PUT", {}, b"program", 403),
        ("PUT", {"x-api-key": "rk-another"}, b"program", 403),
        ("PUT", {"x-api-key": f"sha256:{DIGEST}"}, b"program", 403),
        ("PUT", {"x-api-key": DIGEST}, b"program", 403),
        ("PUT", {"x-api-key": ""}, b"program", 403),
        ("PUT", {"x-api-key": KEY.encode() + b"\xff"}, b"program", 403),
        ("PUT", {"x-api-key": KEY}, PROGRAM.content[:-1], 400),
        ("PUT", {"x-api-key": KEY}, b"", 400),
        ("POST", {"x-api-key": KEY}, b"program", 501),
    ],
)
def test_who_is_turned_away(
    waiting: Machine, method: str, headers: dict, body: bytes | None, status: int
):
    answer = waiting.ask(method, "/program", data=body, headers=headers)
    assert answer.status_code == status
    assert not (waiting.home / "program.tgz").exists()
    assert waiting.said.step == WAITING


def test_too_much_is_refused_before_it_is_read(waiting: Machine):
    head = (
        f"PUT /program HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: 9000000\r\n\r\n"
    )
    with waiting.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.0 403 ")


def test_what_is_no_http_does_no_harm(waiting: Machine):
    for garbage in (b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(waiting.address, timeout=20) as plain:
            plain.sendall(garbage)
    with waiting.connect() as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        connection.recv(100)
    assert waiting.ask("GET", "/").status_code == 503
    assert waiting.said.step == WAITING


def test_more_strangers_than_it_has_room_for_do_not_keep_the_program_out(waiting: Machine):
    with ExitStack() as silent:
        for _ in range(200):
            silent.enter_context(socket.create_connection(waiting.address, timeout=20))
        wait_until(lambda: threads(waiting) < 80, 30)
    wait_until(lambda: waiting._answers() == 503, 30)


def threads(machine: Machine) -> int:
    """Of the process that waits, and all others of it."""
    return sum(len(list(Path(f"/proc/{pid}/task").glob("*"))) for pid in machine.processes())


def test_strangers_do_not_fill_the_log(waiting: Machine):
    before = waiting.text()
    for garbage in (b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(waiting.address, timeout=20) as stranger:
            stranger.sendall(garbage)
            with suppress(ConnectionResetError):
                while stranger.recv(1000):  # until it has been dealt with
                    pass
    assert waiting.text() == before


def test_nothing_secret_is_seen_of_it_while_it_waits(waiting: Machine):
    assert len(command_lines(waiting)) >= 2


def command_lines(machine: Machine) -> list[bytes]:
    """What everyone on the machine may read, none of it secret."""
    lines = [read(f"/proc/{pid}/cmdline") for pid in machine.processes()]
    for secret in (KEY, DIGEST, *SECRETS.values()):
        assert not any(secret.encode() in line for line in lines)
    return lines


# ---------------------------------------------------------------------------- it serves our program


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Given the program, while others hold connections and say nothing, or not all."""
    with Machine(tmp_path_factory.mktemp("serving")) as machine:
        machine.start().until_waiting()
        head = f"PUT / HTTP/1.1\r\nx-api-key: {KEY}\r\nContent-Length: 1000\r\n\r\nhalf"
        with socket.create_connection(machine.address), machine.connect() as half:
            half.sendall(head.encode())
            assert machine.ask("GET", "/").status_code == 503
            sent = machine.ask("PUT", "/program", data=PROGRAM.content, headers={"x-api-key": KEY})
            assert sent.status_code == 204
            yield machine.until_ready()


def test_it_ranks_for_who_has_the_key(serving: Machine):
    body = {"query": PASSAGES[1], "passages": PASSAGES}
    low, high = serving.ask("POST", "/rerank", json=body, headers=BEARER).json()
    assert low < high
    for headers in ({}, {"x-api-key": DIGEST}, {"x-api-key": f"sha256:{DIGEST}"}):
        assert serving.ask("POST", "/rerank", json=body, headers=headers).status_code == 401


def test_the_certificate_is_the_same_as_before(serving: Machine):
    shown = pin.fingerprint_of(pin.certificate_of(*serving.address, timeout_s=20))
    assert shown == serving.said.fingerprint
    assert serving.said.step == "starting"


def test_nothing_secret_is_seen_of_it_while_it_serves(serving: Machine):
    lines = command_lines(serving)
    assert any(b"serve\0up\0minilm" in line for line in lines)
    assert any(b"fake_vllm.py" in line for line in lines)
    assert not any(secret in serving.text() for secret in (KEY, DIGEST, *SECRETS.values()))


def test_it_ends_as_it_is_told_and_starts_again(machine: Machine):
    machine.with_program()
    heard = []
    for _ in range(2):
        machine.start().until_ready()
        assert WAITING not in machine.text()
        heard.append((machine.said, "installing" in machine.text()))
        machine.script.terminate()
        assert machine.script.wait(30) == 0
        assert machine.processes() == []
        assert machine.said.ended == 0
    (first, installed), (second, again) = heard
    assert (installed, again) == (True, False)
    assert first.fingerprint == second.fingerprint and first.run != second.run


def test_another_program_is_waited_for(machine: Machine):
    """As where the bundle of an earlier run is damaged."""
    (machine.home / "program.tgz").write_bytes(PROGRAM.content[:-1])
    machine.start().until_waiting()


# ------------------------------------------------------------------------------------------ its end


class Console:
    """Vast.ai, which is asked to destroy an instance, and at first fails. A context manager."""

    def __init__(self) -> None:
        console = self
        self.asked: list[tuple[float, str, str, str | None, bytes]] = []
        self.looked: list[tuple[str, str | None]] = []
        self.may_look = 200

        class Handler(BaseHTTPRequestHandler):
            def do_DELETE(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                who = self.headers["authorization"]
                console.asked.append((time.time(), self.command, self.path, who, body))
                self.send_response(500 if len(console.asked) == 1 else 200)
                self.end_headers()

            def do_GET(self) -> None:
                console.looked.append((self.path, self.headers["authorization"]))
                self.send_response(console.may_look)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def console() -> Iterator[Console]:
    with Console() as console:
        yield console


DESTROY = ("DELETE", "/api/v0/instances/31/", "Bearer instance-secret", b"{}")
# Only the pause after a failure is shorter than what is sent.
QUICK = packed(WRITTEN.replace("time.sleep(20)", "time.sleep(0.1)"))
NO_MODEL = {"RERANK_MODEL": "no-such-model"}


def test_it_destroys_itself_when_its_time_is_over(machine: Machine, console: Console):
    assert QUICK != SCRIPT
    machine.start(QUICK, VAST_URL=console.url, RERANK_TTL="0")
    wait_until(lambda: len(console.asked) > 2, 30, machine.text)  # it never gives up
    assert {tuple(rest) for _, *rest in console.asked} == {DESTROY}
    assert console.looked == [("/api/v0/instances/31/", "Bearer instance-secret")]
    assert "rerank-serve clock: its time is over" in machine.text()
    assert "rerank-serve clock: cannot end it: <HTTPError 500" in machine.text()
    assert machine.script.poll() is None


def test_it_tells_at_once_that_it_will_not_be_able_to_end_itself(
    machine: Machine, console: Console
):
    console.may_look = 401
    machine.start(VAST_URL=console.url, RERANK_TTL="3600").until_waiting()
    wait_until(lambda: "HTTPError 401" in machine.said.clock, 30, machine.text)
    assert machine.said.step == WAITING and console.asked == []


def test_its_end_is_counted_from_its_first_start(machine: Machine, console: Console):
    (machine.home / "until").write_text(f"{time.time() - 1:.0f}")
    machine.start(QUICK, VAST_URL=console.url, RERANK_TTL="3600")
    wait_until(lambda: console.asked, 30, machine.text)


def test_it_lives_until_its_end_when_its_server_does_not(machine: Machine, console: Console):
    until = int(time.time()) + 3
    machine.with_program().start(QUICK, VAST_URL=console.url, RERANK_TTL="3", **NO_MODEL)
    wait_until(lambda: machine.said.ended == 2, 30, machine.text)
    assert "no model 'no-such-model'" in machine.said.last_line
    wait_until(lambda: len(console.asked) > 1, 30, machine.text)
    assert all(at >= until for at, *_ in console.asked)
    assert machine.script.poll() is None


def test_it_ends_with_its_server_where_no_end_is_set(machine: Machine):
    machine.with_program().start(**NO_MODEL)
    assert machine.script.wait(30) == 2
    assert machine.said.ended == 2
    assert machine.processes() == []


def test_it_ends_before_its_end_when_it_is_told_to(machine: Machine, console: Console):
    machine.with_program().start(VAST_URL=console.url, RERANK_TTL="3600")
    machine.until_ready().script.terminate()
    assert machine.script.wait(30) == 0
    assert console.asked == []


def test_a_program_that_is_none_ends_it(machine: Machine):
    content = b"no archive"
    (machine.home / "program.tgz").write_bytes(content)
    machine.start(RERANK_BUNDLE=hashlib.sha256(content).hexdigest())
    assert machine.script.wait(30) == 1
    assert machine.said.ended == 1
