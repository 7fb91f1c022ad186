"""The gateway over TLS: the real server, asked by clients of all kinds and by none that behave."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import requests
import uvicorn
import uvloop
from uvicorn.server import ServerState

from serve import tls
from serve.errors import ConfigError
from serve.protocol import HEAD_S, Protocol
from tests.certificates import RSA, Certificate, openssl, self_signed
from tests.harness import ROOT, Server, write_config
from tests.test_protocol import echo

PASSAGES = ["one", "two", "three"]
BODY = {"query": "q", "passages": PASSAGES}
TOO_LARGE = b"x" * 30_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificate"), "server")


@pytest.fixture(scope="module")
def server(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("tls")
    config = write_config(work, "limits: {body_bytes: 20000000}\n")
    with Server(config, work, *certificate.arguments, trusting=certificate.pem) as server:
        yield server.until_ready()
    assert "Traceback" not in server.text()


def address(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("https://").split(":")
    return host, int(port)


@pytest.fixture(scope="module", autouse=True)
def silent(server: Server) -> Iterator[socket.socket]:
    """Who connected before all the others and says nothing."""
    with socket.create_connection(address(server), timeout=HEAD_S + 25) as connection:
        yield connection


def connect(server: Server, **of_context: object) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=server.trusting)
    for name, value in of_context.items():
        setattr(context, name, value)
    plain = socket.create_connection(address(server), timeout=60)
    return context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


def test_the_scores_are_those_of_plain_http(server: Server, fake_server: Server):
    assert server.url.startswith("https://")
    assert server.rerank("q", PASSAGES) == fake_server.rerank("q", PASSAGES)


# -- whoever trusts the certificate, as one trusts any -----------------------------------------


def by_curl(url: str, pem: Path) -> object:
    command = ["curl", "-sS", "--cacert", str(pem), "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*command, "-d", json.dumps(BODY), url], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_requests(url: str, pem: Path) -> object:
    return requests.post(url, json=BODY, verify=str(pem), timeout=60).json()


def by_httpx(url: str, pem: Path, flags: ssl.VerifyFlags = ssl.VERIFY_DEFAULT) -> object:
    context = ssl.create_default_context(cafile=pem)
    context.verify_flags |= flags
    with httpx.Client(verify=context, timeout=60) as client:
        return client.post(url, json=BODY).json()


def by_httpx_of_python_3_13(url: str, pem: Path) -> object:
    return by_httpx(url, pem, ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)


@pytest.mark.parametrize("ask", [by_curl, by_requests, by_httpx, by_httpx_of_python_3_13])
def test_clients_of_others(server: Server, certificate: Certificate, ask: Callable[..., object]):
    assert ask(f"{server.url}/rerank", certificate.pem) == server.rerank("q", PASSAGES)


def test_who_does_not_trust_it_sends_nothing(server: Server):
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        requests.get(f"{server.url}/health", timeout=60)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(server: Server, version: ssl.TLSVersion):
    with connect(server, maximum_version=version) as connection:
        assert connection.version() == version.name.replace("_", ".")


def test_no_version_is_older_than_1_2(certificate: Certificate):
    made = tls.context(certificate.pem, certificate.key)
    assert made and made.minimum_version == ssl.TLSVersion.TLSv1_2


# -- large and wrong requests -------------------------------------------------------------------


def test_a_large_body_and_a_large_answer(server: Server):
    passages = [f"passage {i} " + "word " * 300 for i in range(10_000)]
    body = {"query": "q", "documents": passages, "return_documents": True}
    answer = server.post("/v1/rerank", body)
    assert answer.ok, answer.text
    assert {item["document"]["text"] for item in answer.json()["results"]} == set(passages)


def test_a_slow_reader_gets_the_whole_answer_before_the_connection_is_closed(server: Server):
    passages = ["word " * 300] * 10_000
    body = json.dumps({"query": "q", "documents": passages, "return_documents": True}).encode()
    head = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head % len(body) + body)
        with connection.makefile("rb") as stream:
            assert b" 200 " in stream.readline()
            assert server.get("/health").ok  # while the rest waits to be read
            answer = stream.read().partition(b"\r\n\r\n")[2]
    assert len(json.loads(answer)["results"]) == len(passages)


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
def test_a_body_that_is_too_large_is_answered(server: Server, headers: dict[str, str]):
    url = f"{server.url}/rerank"
    answer = requests.post(url, data=TOO_LARGE, headers=headers, verify=server.trusting, timeout=60)
    assert answer.status_code == 413 and "body_bytes" in answer.json()["message"]


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_a_head_without_end_is_answered(server: Server, size: int):
    answer = server.get("/health", headers={"x": "y" * size})
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert "more than 65536 bytes" in answer.json()["message"]


def test_what_is_no_http_is_answered(server: Server):
    with connect(server) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert b" 400 " in stream.readline()
            assert "send HTTP/1.1" in stream.read().decode()  # and then the end


@pytest.mark.parametrize("data", [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff"])
def test_what_is_no_tls_is_not_listened_to(server: Server, data: bytes):
    with socket.create_connection(address(server), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in connection.recv(1000)
    assert server.get("/health").ok


# -- the end of connections ---------------------------------------------------------------------


def test_a_stop_waits_for_no_connection_that_idles(certificate: Certificate, tmp_path: Path):
    arguments = (*certificate.arguments, "--host", "127.0.0.1")
    config = write_config(tmp_path)
    with Server(config, tmp_path, *arguments, trusting=certificate.pem) as server:
        server.until_ready()
        with (
            socket.create_connection(address(server)),  # never ends its handshake
            connect(server),  # never asks
            connect(server) as asked,
            connect(server) as refused,
        ):
            asked.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            with asked.makefile("rb") as stream:
                assert b" 200 " in stream.readline()
            refused.sendall(b"NONSENSE\r\n\r\n")
            assert b" 400 " in refused.recv(1000)
            server.process.terminate()
            assert server.wait() == 0
            while asked.recv(1000):  # up to the end, in TLS's own words: else it were an error
                pass
    assert "timeout graceful shutdown exceeded" not in server.text()  # uvicorn's, after 5 seconds
    assert "Traceback" not in server.text()


def test_a_connection_that_idled_for_long_is_closed_at_once(certificate: Certificate):
    config = uvicorn.Config(echo, ws="none", lifespan="off", log_config=None, timeout_keep_alive=0)
    config.load()
    state = ServerState()

    def ask(port: int) -> bytes:
        context = ssl.create_default_context(cafile=certificate.pem)
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with connection.makefile("rb") as stream:
                assert b" 200 " in stream.read()  # to the goodbye, which it does not answer
            with socket.socket(fileno=connection.detach()) as below:
                below.settimeout(20)  # less than uvloop waits for an answer
                return below.recv(1)

    async def serve_one() -> bytes:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Protocol(config=config, server_state=state, app_state={}),
            "127.0.0.1",
            0,
            ssl=tls.context(certificate.pem, certificate.key),
        )
        async with server:
            return await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(serve_one()) == b""


# -- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people may take for a certificate and its key."""
    folder = tmp_path_factory.mktemp("files")
    own = self_signed(folder, "own")
    self_signed(folder, "other")
    self_signed(folder, "rsa", kind=RSA)
    self_signed(folder, "weak", kind=("-newkey", "rsa:1024"))
    for name, more in (("encrypted", ()), ("old", ("-traditional",))):
        secret = ("-aes256", "-passout", "pass:word")
        openssl("pkey", "-in", own.key, *secret, *more, "-out", folder / f"{name}.key")
    openssl("x509", "-in", own.pem, "-outform", "der", "-out", folder / "own.der")
    (folder / "both.pem").write_text(own.pem.read_text() + own.key.read_text())
    (folder / "empty").touch()
    lines = own.pem.read_text().splitlines(keepends=True)
    (folder / "damaged.pem").write_text("".join(lines[:2] + lines[3:]))
    lines = own.key.read_text().splitlines(keepends=True)
    (folder / "damaged.key").write_text("".join(lines[:1] + lines[2:]))
    return folder


WRONG = [
    ("own.pem", None, "--tls-certificate goes with --tls-key: give both"),
    (None, "own.key", "--tls-key goes with --tls-certificate: give both"),
    ("none.pem", "own.key", "--tls-certificate {}/none.pem cannot be read: No such file"),
    ("own.pem", "none.key", "--tls-key {}/none.key cannot be read: No such file"),
    ("", "own.key", "--tls-certificate {} cannot be read: Is a directory"),
    ("own.pem", "", "--tls-key {} cannot be read: Is a directory"),
    ("own.der", "own.key", "--tls-certificate {}/own.der: no certificate in PEM is in it"),
    ("empty", "own.key", "--tls-certificate {}/empty: no certificate in PEM is in it"),
    ("own.pem", "empty", "--tls-key {}/empty: no private key in PEM is in it"),
    ("own.key", "own.pem", "--tls-certificate {}/own.key: no certificate in PEM is in it"),
    ("own.pem", "own.pem", "--tls-key {}/own.pem: no private key in PEM is in it"),
    ("damaged.pem", "own.key", "--tls-certificate {}/damaged.pem: it is damaged: make"),
    ("own.pem", "damaged.key", "--tls-key {}/damaged.key: it is damaged: make"),
    ("own.pem", "other.key", "--tls-key {}/other.key: it is not the key of {}/own.pem: give"),
    ("own.pem", "rsa.key", "--tls-key {}/rsa.key: it is not the key of {}/own.pem: give"),
    ("rsa.pem", "own.key", "--tls-key {}/own.key: it is not the key of {}/rsa.pem: give"),
    ("weak.pem", "weak.key", "--tls-certificate {}/weak.pem: OpenSSL says 'ee key too small'"),
    ("own.pem", "encrypted.key", "--tls-key {}/encrypted.key: it is encrypted: give one without"),
    ("own.pem", "old.key", "--tls-key {}/old.key: it is encrypted: give one without"),
]


@pytest.mark.parametrize(("certificate_name", "key_name", "words"), WRONG)
def test_files_that_cannot_be_used(
    files: Path, certificate_name: str | None, key_name: str | None, words: str
):
    pem, key = (None if name is None else files / name for name in (certificate_name, key_name))
    with pytest.raises(ConfigError) as caught:
        tls.context(pem, key)
    assert str(caught.value).startswith(words.replace("{}", str(files)))
    assert "\n" not in str(caught.value)


def test_files_that_can_be_used(files: Path):
    assert tls.context(None, None) is None
    for pem, key in (("own.pem", "own.key"), ("rsa.pem", "rsa.key"), ("both.pem", "both.pem")):
        assert tls.context(files / pem, files / key)


def test_an_encrypted_key_is_one_line_and_no_prompt(files: Path, tmp_path: Path):
    arguments = ("--tls-certificate", files / "own.pem", "--tls-key", files / "encrypted.key")
    command = [sys.executable, "-m", "serve", "up", "minilm", "--run-dir", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, [*command, *arguments])], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: --tls-key {files}/encrypted.key: it is encrypted: ")
    assert not (tmp_path / "run").exists()


def test_make_passes_the_files_on():
    command = ["make", "-n", "serve", "verify", "TLS_CERTIFICATE=a", "TLS_KEY=b", "FINGERPRINT=c"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    up, verify = (line for line in done.stdout.splitlines() if " -m " in line)
    assert " --tls-certificate a --tls-key b" in up and "--fingerprint" not in up
    assert " --fingerprint c" in verify and "--tls" not in verify


# Last, since it waits for what is left of its time (less than uvloop's own minute).
def test_who_never_ends_the_handshake_is_dropped(server: Server, silent: socket.socket):
    assert server.get("/health").ok
    with suppress(ConnectionResetError):
        assert silent.recv(1) == b""
