"""Trust in one certificate by its fingerprint: real clients, the real server, and false ones."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import NotFound, RerankClient, TimedOut, Unreachable, pin
from clients.ask import NotAsked, http_fetch
from clients.compare import Example, Reference
from clients.reference import write_reference
from clients.reranker import Reranker
from tests.certificates import Certificate, expired, self_signed
from tests.harness import ROOT, Server, wait_until, write_config
from tests.test_clients import PASSAGES, each, expected
from tests.tls_peers import PATIENCE_S, Listener, Proxy, Recorder, Script, answer

Make = Callable[..., Reranker]
KEY = "secret-key"
FALSE = "sha256:" + "0" * 64
TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TRUST, *PROXIES):
        for spelling in (name, name.lower()):
            monkeypatch.delenv(spelling, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def right(folder: Path) -> Certificate:
    return self_signed(folder, "right")


@pytest.fixture(scope="module")
def wrong(folder: Path) -> Certificate:
    """As good as the right one but for its key."""
    return self_signed(folder, "wrong")


@pytest.fixture(scope="module")
def server(right: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("pin")
    arguments = (write_config(work), work, *right.arguments)
    with Server(*arguments, env={"RERANK_API_KEY": KEY}, trusting=right.pem) as server:
        yield server.until_ready()


def nothing_came(recorder: Recorder) -> bool:
    """Whether one connection was made, and over it not a byte was sent. After the server's end."""
    return recorder.connections == 1 and b"".join(recorder.received) == b""


# -- the words --------------------------------------------------------------------------------


def test_a_fingerprint_is_what_openssl_prints(right: Certificate, wrong: Certificate):
    for one in (right, wrong):
        assert pin.fingerprint_of(one.der) == pin.parse(one.printed) == one.fingerprint
    assert right.fingerprint != wrong.fingerprint


@given(st.binary(min_size=32, max_size=32))
def test_the_spellings_of_a_fingerprint(digest: bytes):
    normal = "sha256:" + digest.hex()
    colons = digest.hex(":").upper()
    bare = digest.hex()
    spellings = (normal, bare, bare.upper(), colons, f"SHA256:{bare}", f"sha256:{colons}")
    printed = (f"sha256 Fingerprint={colons}\n", f"SHA256 Fingerprint={colons}\n")
    assert {pin.parse(spelling) for spelling in (*spellings, *printed)} == {normal}
    assert re.fullmatch("sha256:[0-9a-f]{64}", normal)


MALFORMED = [
    "",
    "sha256:",
    "0" * 63,
    "0" * 65,
    "g" * 64,
    "sha1:" + "0" * 40,
    "sha512:" + "0" * 64,
    "0" * 40,
    "sha256:" + "0" * 64 + ":",
    "０" * 64,
    "ſha256:" + "0" * 64,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_fingerprint(text: str):
    with pytest.raises(ValueError, match="sha256: and 64 hex digits"):
        pin.parse(text)


@each
@pytest.mark.parametrize(
    ("url", "text", "words"),
    [
        ("https://127.0.0.1:9", "0" * 63, "64 hex digits"),
        ("http://127.0.0.1:9", FALSE, "goes with an https:// address alone"),
    ],
)
def test_a_client_that_cannot_be_made(make: Make, url: str, text: str, words: str):
    with pytest.raises(ValueError, match=words), make(url, fingerprint=text) as client:
        client.rerank("q", PASSAGES)


def test_a_fetch_that_cannot_be_made():
    with pytest.raises(ValueError, match="goes with an https:// address alone"):
        http_fetch("http://127.0.0.1:9", fingerprint=FALSE)


# -- the right certificate ----------------------------------------------------------------------


@each
def test_the_right_server_gives_the_same_as_over_plain_http(
    server: Server, fake_server: Server, right: Certificate, make: Make
):
    with make(fake_server.url) as client:
        plain = client.rerank("q", PASSAGES), client.score("q", PASSAGES)
    for text in (right.fingerprint, right.printed):
        with make(server.url, api_key=KEY, fingerprint=text) as client:
            assert (client.rerank("q", PASSAGES), client.score("q", PASSAGES)) == plain
    assert plain[0] == expected("q", PASSAGES)


@each
def test_without_a_fingerprint_it_is_not_trusted(server: Server, make: Make):
    refused = pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED")
    with refused as caught, make(server.url) as client:
        client.rerank("q", PASSAGES)
    assert not caught.value.again


@pytest.fixture(scope="module", params=["expired", "of another host"])
def odd(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Certificate]]:
    """A server whose certificate no authority's reader would take."""
    is_expired = request.param == "expired"
    one = expired(folder) if is_expired else self_signed(folder, "host", of="DNS:other.example")
    work = tmp_path_factory.mktemp("odd")
    with Server(write_config(work), work, *one.arguments) as server:
        wait_until(lambda: "ready after" in server.text(), 20, server.text)
        yield server, one


@each
def test_neither_dates_nor_names_count(odd: tuple[Server, Certificate], make: Make):
    server, one = odd
    with make(server.url, fingerprint=one.fingerprint) as client:
        assert client.rerank("q", PASSAGES) == expected("q", PASSAGES)


# -- any other certificate ------------------------------------------------------------------------


@each
def test_the_recorder_would_see_a_request(right: Certificate, make: Make):
    with (
        Recorder(right) as recorder,
        make(recorder.url, api_key=KEY, fingerprint=right.fingerprint) as client,
    ):
        assert [item.index for item in client.rerank("q", ["a", "b"])] == [0, 1]
    assert recorder.connections == 1 and KEY.encode() in recorder.received[0]


@each
@pytest.mark.parametrize(
    "environment", [{}, {"REQUESTS_CA_BUNDLE": "wrong", "SSL_CERT_FILE": "wrong"}]
)
def test_a_false_server_is_sent_nothing(
    right: Certificate,
    wrong: Certificate,
    make: Make,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    for name in environment:  # by which its certificate is as good as signed
        monkeypatch.setenv(name, str(wrong.pem))
    with (
        Recorder(wrong) as recorder,
        make(recorder.url, api_key=KEY, fingerprint=right.fingerprint) as client,
        pytest.raises(Unreachable) as caught,
    ):
        client.rerank("q", ["a", "b"])
    assert nothing_came(recorder)  # by one connection: it is not tried again
    words = str(caught.value)
    assert f"expected: {right.fingerprint}, came: {wrong.fingerprint}" in words
    assert recorder.url in words and "look up its fingerprint on the server" in words
    assert not caught.value.again


@each
def test_trust_of_the_environment_that_is_not_there(
    right: Certificate, make: Make, monkeypatch: pytest.MonkeyPatch
):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/no/such/file")
    with (
        Recorder(right) as recorder,
        make(recorder.url, fingerprint=right.fingerprint) as client,
    ):
        assert len(client.rerank("q", ["a", "b"])) == 2


@each
def test_every_connection_is_checked(right: Certificate, wrong: Certificate, make: Make):
    closing = answer(b"connection: close\r\n")
    with (
        Recorder(right, wrong, answer=closing) as recorder,
        make(recorder.url, api_key=KEY, fingerprint=right.fingerprint) as client,
    ):
        client.rerank("q", ["a", "b"])
        with pytest.raises(Unreachable, match="is not the expected one"):
            client.rerank("q", ["a", "b"])
    assert recorder.connections == 2 and recorder.received[0]
    assert not b"".join(recorder.received[1:])


@each
def test_a_connection_is_used_again(right: Certificate, wrong: Certificate, make: Make):
    with (
        Recorder(right, wrong) as recorder,
        make(recorder.url, fingerprint=right.fingerprint) as client,
    ):
        for _ in range(3):
            client.rerank("q", ["a", "b"])
    assert recorder.connections == 1
    assert recorder.received[0].count(b"POST ") == 3


@each
@pytest.mark.parametrize("to_tls", [False, True])
def test_a_redirect_leads_nowhere(right: Certificate, wrong: Certificate, make: Make, to_tls: bool):
    with Recorder(wrong if to_tls else None) as elsewhere:
        place = elsewhere.url.encode()
        moved = b"HTTP/1.1 307 Moved\r\nlocation: %s/v1/rerank\r\ncontent-length: 0\r\n\r\n" % place
        with (
            Recorder(right, answer=moved) as recorder,
            make(recorder.url, api_key=KEY, fingerprint=right.fingerprint) as client,
            pytest.raises(NotFound, match="sends elsewhere"),
        ):
            client.rerank("q", ["a", "b"])
    assert elsewhere.connections == 0


@each
def test_a_port_that_speaks_plain_http(fake_server: Server, make: Make):
    url = fake_server.url.replace("http:", "https:")
    refused = pytest.raises(Unreachable, match="speaks no TLS: is its address one with http://")
    with refused as caught, make(url, fingerprint=FALSE) as client:
        client.rerank("q", PASSAGES)
    assert not caught.value.again


# -- proxies --------------------------------------------------------------------------------------


@each
def test_a_proxy_leads_to_the_right_server(
    server: Server, right: Certificate, make: Make, monkeypatch: pytest.MonkeyPatch
):
    port = int(server.url.rpartition(":")[2])
    with Proxy(port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with make("https://rerank.example", api_key=KEY, fingerprint=right.fingerprint) as client:
            assert client.rerank("q", PASSAGES) == expected("q", PASSAGES)
    assert [line.split()[:2] for line in proxy.asked] == [["CONNECT", "rerank.example:443"]]


@each
def test_a_proxy_that_leads_elsewhere(
    right: Certificate, wrong: Certificate, make: Make, monkeypatch: pytest.MonkeyPatch
):
    with Recorder(wrong) as recorder, Proxy(recorder.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with (
            make("https://rerank.example", api_key=KEY, fingerprint=right.fingerprint) as client,
            pytest.raises(Unreachable, match=f"came: {wrong.fingerprint}") as caught,
        ):
            client.rerank("q", ["a", "b"])
    assert len(proxy.asked) == 1 and nothing_came(recorder)
    assert not caught.value.again


@each
def test_a_proxy_that_speaks_tls_needs_a_certificate_that_is_signed(
    server: Server, right: Certificate, make: Make, monkeypatch: pytest.MonkeyPatch
):
    port = int(server.url.rpartition(":")[2])
    with Proxy(port, right.server_context()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//name:password@"))
        with (
            make("https://rerank.example", fingerprint=right.fingerprint) as client,
            pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.rerank("q", PASSAGES)
    assert proxy.asked == []


# -- certificate_of -----------------------------------------------------------------------------


def test_the_certificate_of_a_server(server: Server, right: Certificate):
    port = int(server.url.rpartition(":")[2])
    assert pin.certificate_of("127.0.0.1", port, 60) == right.der
    assert pin.certificate_of("localhost", port, 60) == right.der


def silent(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.recv(10_000)  # the end


def trickling(connection: socket.socket) -> None:
    """A handshake of which a byte comes now and then, and the end never."""
    connection.sendall(b"\x16\x03\x03\x40\x00")
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        connection.sendall(b"\x02")
        time.sleep(0.05)


def dropping(connection: socket.socket) -> None:
    connection.recv(10_000)


def talking_http(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    connection.recv(10_000)


@pytest.mark.parametrize("peer", [silent, trickling])
def test_who_shows_no_certificate_is_not_waited_for(peer: Callable[[socket.socket], None]):
    with Script(peer) as script, pytest.raises(TimedOut, match="showed no certificate in time"):
        pin.certificate_of("127.0.0.1", script.port, 0.5)


@pytest.mark.parametrize(
    ("peer", "words", "again"),
    [(dropping, "cannot be reached", True), (talking_http, "speaks no TLS", False)],
)
def test_who_breaks_off(peer: Callable[[socket.socket], None], words: str, again: bool):
    with Script(peer) as script, pytest.raises(Unreachable, match=words) as caught:
        pin.certificate_of("127.0.0.1", script.port, 60)
    assert caught.value.again is again


def test_who_is_not_there():
    with Listener() as listener:
        port = listener.port
    with pytest.raises(Unreachable, match="Connection refused") as caught:
        pin.certificate_of("127.0.0.1", port, 60)
    assert caught.value.again
    for host in ("no.such.host.invalid", "", "a\0b", ".x", "x" * 300):
        with pytest.raises(Unreachable, match="cannot be reached"):
            pin.certificate_of(host, port, 60)
    with pytest.raises(TimedOut):
        pin.certificate_of("127.0.0.1", port, 0)


# -- the command lines ----------------------------------------------------------------------------


def command(
    *arguments: str, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "RERANK_API_KEY": KEY, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


def rerank(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    queries, out = tmp_path / "queries.jsonl", tmp_path / "out.jsonl"
    queries.write_text(json.dumps({"query": "q", "passages": PASSAGES}) + "\n")
    given = (str(queries), "--out", str(out), *arguments)
    return command("clients", "rerank", *given), out


def test_the_commands_ask_the_right_server(server: Server, right: Certificate, tmp_path: Path):
    pinned = ("--url", server.url, "--fingerprint", right.printed)
    asked = command("clients", "ask", "q", *PASSAGES, *pinned)
    assert asked.returncode == 0, asked.stderr
    assert "agree to the last digit" in asked.stdout and not asked.stderr
    ranked, out = rerank(tmp_path, *pinned)
    assert ranked.returncode == 0 and len(json.loads(out.read_text())["results"]) == 4
    path = tmp_path / "fake.json"
    verify = ("clients.verify", "fake", "--reference", str(path), *pinned)
    recorded = command(*verify, "--record", "--dtype", "float32")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    verified = command(*verify)
    assert verified.returncode == 0 and not verified.stderr


def test_the_commands_ask_no_other_server(right: Certificate, wrong: Certificate, tmp_path: Path):
    path = tmp_path / "fake.json"
    write_reference(path, Reference("fake", "float32", "here", [Example("q", ["a"], [0.5])]))
    with Recorder(wrong) as recorder:
        pinned = ("--url", recorder.url, "--fingerprint", right.fingerprint)
        dones = [
            command("clients", "ask", *pinned),
            rerank(tmp_path, *pinned)[0],
            command("clients.verify", "fake", "--reference", str(path), *pinned),
        ]
    assert [done.returncode for done in dones] == [1, 1, 3]
    for done in dones:
        [line] = done.stderr.splitlines()
        assert line.startswith("error: ") and f"came: {wrong.fingerprint}" in line
        assert "make serve" not in line
    assert recorder.connections == 3 and not b"".join(recorder.received)


@pytest.mark.parametrize(
    "name", [["clients", "ask"], ["clients", "rerank", "-"], ["clients.verify", "x"]]
)
@pytest.mark.parametrize(
    ("pinned", "words"),
    [
        (["--url", "http://127.0.0.1:9", "--fingerprint", FALSE], "goes with an https:// address"),
        (["--url", "https://127.0.0.1:9", "--fingerprint", "x"], "64 hex digits, not 'x'"),
    ],
)
def test_arguments_that_do_not_go_together(name: list[str], pinned: list[str], words: str):
    done = command(*name, *pinned)
    assert done.returncode == 2 and "argument --fingerprint: " in done.stderr
    assert words in done.stderr.splitlines()[-1]


def test_a_fetch_of_a_false_server(right: Certificate, wrong: Certificate):
    with Recorder(wrong) as recorder:
        fetch = http_fetch(recorder.url, KEY, fingerprint=right.fingerprint)
        with pytest.raises(NotAsked, match=f"came: {wrong.fingerprint}"):
            fetch("/v1/models", None)
    assert nothing_came(recorder)


def test_the_models_of_a_server(server: Server, right: Certificate):
    with RerankClient(server.url, api_key=KEY, fingerprint=right.fingerprint) as client:
        assert {entry["id"] for entry in client.models()} == {"fake", "org/fake"}
