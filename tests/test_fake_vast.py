"""The fake Vast.ai, through Vast's own SDK: a test of `tests/fake_vast.py`, not of our code."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from vastai import VastAI

from tests.fake_vast import OUTCOMES, FakeVast, free_port, offer
from tests.harness import alive, wait_until

SERVE = 'echo "started at $VAST_TCP_PORT_{0}"; env; cd "$HOME"; exec python3 -m http.server {0}'
LINGER = "trap '' TERM; setsid sleep 600 & (sleep 600 & disown); echo up; while :; do sleep 1; done"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeVast]:
    with FakeVast(tmp_path / "vast", delay=0.05) as fake:
        fake.offers([offer(id=1, machine_id=11), offer(id=2, machine_id=12)])
        yield fake


def sdk(fake: FakeVast, key: str | None = None) -> VastAI:
    return VastAI(api_key=key or fake.key, server_url=fake.url, retry=1)


def rent(fake: FakeVast, script: str = "sleep 600", number: int = 1, **options: Any) -> int:
    """A new instance's number."""
    wishes = {"image": "some/image", "disk": 40, "label": "test", "runtype": "args"}
    wishes |= {"onstart_cmd": "/bin/bash", "args": ["-c", script], "cancel_unavail": True}
    answer = sdk(fake).create_instance(number, **(wishes | options))
    assert answer["success"]
    return answer["new_contract"]


def row_when(fake: FakeVast, number: int, status: str) -> dict:
    wait_until(lambda: status_of(fake, number) == status, 10, fake.instances)
    return sdk(fake).show_instance(number)


def status_of(fake: FakeVast, number: int) -> str | None:
    return sdk(fake).show_instance(number)["actual_status"]


def outer_port(row: dict, inner: int) -> int:
    return int(row["ports"][f"{inner}/tcp"][0]["HostPort"])


def refused(call: Callable[[], object]) -> requests.Response:
    with pytest.raises(requests.HTTPError) as raised:
        call()
    return raised.value.response


def processes(fake: FakeVast) -> set[int]:
    return {pid for each in fake.instances() for pid in [each["pid"], *each["pids"]] if pid}


# ------------------------------------------------------------------------------------- the market


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("gpu_ram>=15 num_gpus=1 compute_cap>=750 cuda_max_good>=13.0 static_ip=true", {1, 2, 3}),
        ("gpu_ram>=16", {2}),
        ("cuda_vers>=13.1", {3}),
        ("gpu_name=RTX_4090 reliability>0.98", {2}),
        ("geolocation in [SE,DE]", {1, 3}),
        ("geolocation notin [SE]", {2, 3}),
        ("dph<0.2", {1, 3}),
        ({"machine_id": {"notin": [11, 13]}}, {2}),
        ({"machine_id": {"neq": 12}, "gpu_ram": {"lte": 15360}}, {1, 3}),
        ({"no_such_field": {"gte": 1}}, set()),
    ],
)
def test_a_search_filters(fake: FakeVast, query: str | dict, found: set[int]) -> None:
    fake.offers(
        [
            offer(id=1, machine_id=11),
            offer(id=2, machine_id=12, gpu_name="RTX 4090", gpu_ram=24564, dph_total=0.3)
            | {"geolocation": "United States, US"},
            offer(id=3, machine_id=13, cuda_max_good=13.1, geolocation="Germany, DE"),
            offer(id=4, machine_id=14, verified=False),
        ]
    )
    assert {each["id"] for each in sdk(fake).search_offers(query)} == found


def test_a_search_has_an_order_and_a_limit(fake: FakeVast) -> None:
    fake.offers([offer(id=n, dph_total=price) for n, price in enumerate([3, 1, 2, 4])])
    found = sdk(fake).search_offers("num_gpus=1", order="dph_total-", limit=3)
    assert [each["dph_total"] for each in found] == [4, 3, 2]
    fake.offers([offer() for _ in range(70)])
    assert len(sdk(fake).search_offers("num_gpus=1", limit=100)) == 64


def test_a_search_refuses_a_filter_without_operator(fake: FakeVast) -> None:
    assert refused(lambda: sdk(fake).search_offers({"num_gpus": 1})).status_code == 400


def test_a_rented_offer_is_gone_until_its_instance_is(fake: FakeVast) -> None:
    number = rent(fake)
    assert [each["id"] for each in sdk(fake).search_offers()] == [2]
    gone = refused(lambda: rent(fake))
    assert gone.status_code == 410
    assert gone.json()["error"] == "no_such_ask"
    never = refused(lambda: rent(fake, number=77))
    assert never.status_code == 404
    assert "no_such_ask" in never.json()["msg"]
    sdk(fake).destroy_instance(number)
    assert len(sdk(fake).search_offers()) == 2


@pytest.mark.parametrize(
    "wrong", [{"image": ""}, {"disk": 4}, {"label": "x" * 257}, {"args": ["x" * 4097]}]
)
def test_a_create_is_checked(fake: FakeVast, wrong: dict) -> None:
    answer = refused(lambda: rent(fake, **wrong))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert fake.instances() == []


# ----------------------------------------------------------------------------- a life of instances


def test_an_instance_lives(fake: FakeVast) -> None:
    fake.set(container_env={"LAST": "word"})
    inner, vast = free_port(), sdk(fake)
    env = {f"-p {inner}:{inner}": "1", "GIVEN": "with 'quotes'", "LAST": "not this"}
    number = rent(fake, f"touch $HOME/kept $RERANK_HOME/kept; {SERVE.format(inner)}", env=env)
    assert vast.show_instance(number)["ports"] is None
    row = row_when(fake, number, "running")
    assert row["public_ipaddr"] == "127.0.0.1\n"
    assert row["extra_env"] == env
    assert (row["label"], row["machine_id"], row["dph_total"]) == ("test", 11, 0.12)
    first = outer_port(row, inner)
    assert first != inner
    wait_until(lambda: "kept" in listing(first), 10, lambda: fake.log(number))
    check_environment(fake, number, first)

    vast.stop_instance(number)
    row = row_when(fake, number, "exited")
    assert (row["intended_status"], row["ports"]) == ("stopped", None)
    assert not processes(fake)
    assert listing(first) == ""
    vast.start_instance(number)
    second = outer_port(row_when(fake, number, "running"), inner)
    assert second != first
    wait_until(lambda: "kept" in listing(second), 10, lambda: fake.log(number))

    (inside,) = fake.instances()
    vast.destroy_instance(number)
    assert vast.show_instance(number) is None
    assert not alive({inside["pid"], *inside["pids"]})
    assert not Path(inside["home"]).exists() and not Path(inside["run_home"]).exists()
    assert refused(lambda: vast.destroy_instance(number)).json()["error"] == "no_such_instance"


def listing(port: int) -> str:
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=5).text
    except requests.ConnectionError:
        return ""


def check_environment(fake: FakeVast, number: int, port: int) -> None:
    """As the SDK reads it from the log, with what the fake knows."""
    log = sdk(fake).logs(number)
    assert f"started at {port}\n" in log
    assert sdk(fake).logs(number, tail="1", filter="started") == f"started at {port}\n"
    found = dict(line.split("=", 1) for line in log.splitlines() if "=" in line)
    (inside,) = fake.instances()
    assert found["CONTAINER_ID"] == str(number)
    assert found["CONTAINER_API_KEY"] == inside["key"]
    assert (found["HOME"], found["RERANK_HOME"]) == (inside["home"], inside["run_home"])
    assert (found["GIVEN"], found["LAST"]) == ("with 'quotes'", "word")
    assert found["VAST_URL"] == fake.url
    assert "PYTEST_CURRENT_TEST" not in found


def test_an_instance_that_ends_by_itself_takes_its_orphans_along(fake: FakeVast) -> None:
    number = rent(fake, "setsid sleep 600 & echo $!; sleep 0.3; exit 3", env={"-p 80:80": "1"})
    wait_until(lambda: fake.instances()[0]["pids"], 10)
    pids = processes(fake)
    row = row_when(fake, number, "exited")
    assert (row["intended_status"], row["ports"]) == ("running", None)
    assert not alive(pids)
    ended = [each for each in fake.journal() if each["kind"] == "ended"]
    assert [(each["code"], each["by_itself"]) for each in ended] == [(3, True)]


def test_what_ignores_term_is_killed_after_the_grace(fake: FakeVast) -> None:
    fake.set(grace=0.5)
    number = rent(fake, LINGER)
    wait_until(lambda: len(processes(fake)) >= 4 and "up" in fake.log(number), 10)
    pids = processes(fake)
    begin = time.monotonic()
    sdk(fake).stop_instance(number)
    assert status_of(fake, number) == "running"
    row_when(fake, number, "exited")
    assert time.monotonic() - begin >= 0.4
    assert not alive(pids)


@pytest.mark.parametrize("end", ["destroy", "kill", "leave"])
def test_no_process_survives(tmp_path: Path, end: str) -> None:
    with FakeVast(tmp_path / "vast", delay=0.01) as fake:
        fake.offers([offer(id=1)])
        number = rent(fake, LINGER)
        wait_until(lambda: len(processes(fake)) >= 4, 10)
        pids, home = processes(fake), Path(fake.instances()[0]["run_home"])
        if end == "destroy":
            sdk(fake).destroy_instance(number)
            assert not alive(pids) and not home.exists()
        if end == "kill":
            fake.kill()
            wait_until(lambda: not alive(pids), 5)
    assert not alive({fake.process.pid, *pids})
    assert not home.parent.exists()


def test_the_program_alone_ends_with_its_signal(tmp_path: Path) -> None:
    program = ["python3", str(Path(__file__).with_name("fake_vast.py")), "--state", str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert requests.get(f"{url}/api/v0/instances/1/", timeout=5).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not (tmp_path / "homes").resolve().exists()


def test_an_identity_port_and_ports_that_nobody_serves(fake: FakeVast) -> None:
    env = {"-p 70000:70000": "1", f"-p 80:{free_port()}": "1", "-p 53:53/udp": "1"}
    number = rent(fake, 'exec python3 -m http.server "$VAST_TCP_PORT_70000"', env=env)
    ports = row_when(fake, number, "running")["ports"]
    (identity,) = (inner for inner, at in ports.items() if at[0]["HostPort"] + "/tcp" == inner)
    wait_until(lambda: listing(int(identity[:-4])), 10, lambda: fake.log(number))
    (other,) = (int(at[0]["HostPort"]) for inner, at in ports.items() if inner != identity)
    with (
        pytest.raises(ConnectionResetError),  # as late as while reading
        socket.create_connection(("127.0.0.1", other), 5) as client,
    ):
        client.recv(1)


def test_a_missing_program_is_an_error_of_the_runtime(fake: FakeVast) -> None:
    number = rent(fake, onstart_cmd="/no/such/program")
    wait_until(lambda: "OCI runtime" in sdk(fake).show_instance(number)["status_msg"], 10)


def test_lists_have_pages_filters_and_labels(fake: FakeVast) -> None:
    fake.set(delay=60)
    fake.offers([offer(id=n) for n in range(1, 31)])
    numbers = [rent(fake, number=n, label=f"label {n}") for n in range(1, 31)]
    vast = sdk(fake)
    assert [each["id"] for each in vast.show_instances()] == numbers
    vast.label_instance(numbers[3], "007")
    page = vast.show_instances_v1({"select_filters": {"label": {"eq": "007"}}, "limit": 25})
    assert [each["id"] for each in page["instances"]] == [numbers[3]]
    assert page["next_token"] is None
    assert fake.most_alive() == 30


# ------------------------------------------------------------------------------------ keys and SSH


def test_only_keys_open(fake: FakeVast) -> None:
    first, second = rent(fake), rent(fake, number=2)
    assert refused(lambda: sdk(fake, "wrong").show_instance(first)).status_code == 401
    own = sdk(fake, fake.instances()[0]["key"])
    assert own.show_instance(first)["id"] == first
    for call in (own.search_offers, own.show_instances, lambda: own.destroy_instance(second)):
        assert refused(call).status_code == 403
    own.stop_instance(first)
    own.destroy_instance(first)
    assert refused(lambda: own.show_instance(first)).status_code == 401
    assert [each["authorized"] for each in fake.journal() if each["kind"] == "request"].count(False)


def test_an_instance_can_end_itself(fake: FakeVast) -> None:
    script = """exec python3 -c '
import os, urllib.request as r
url = "{VAST_URL}/api/v0/instances/{CONTAINER_ID}/".format(**os.environ)
head = {"Authorization": "Bearer " + os.environ["CONTAINER_API_KEY"]}
r.urlopen(r.Request(url, headers=head, method="DELETE"))'"""
    rent(fake, script)
    wait_until(lambda: not fake.instances(), 10)


@pytest.mark.skipif(
    not FakeVast.has_sshd, reason="no sshd (Debian: apt-get install openssh-server)"
)
def test_ssh_reaches_the_instance_and_forwards(fake: FakeVast, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    fake.set(ssh_keys=[public])
    assert [each["public_key"] for each in sdk(fake).show_ssh_keys()] == [public]
    inner, local = free_port(), free_port()
    script = f"python3 -m http.server --bind 127.0.0.1 {inner}"
    ways = {"runtype": None, "args": None, "ssh": True, "direct": True}
    number = rent(fake, onstart_cmd=script, **ways)
    row = row_when(fake, number, "running")
    port = outer_port(row, 22)
    assert (row["ssh_host"], row["image_runtype"]) == ("127.0.0.1", "ssh_direc ssh_proxy")
    options = "StrictHostKeyChecking=no UserKnownHostsFile=/dev/null ExitOnForwardFailure=yes"
    ssh = ["ssh", "-i", str(key), *(f"-o{each}" for each in options.split()), "root@127.0.0.1"]
    command = [*ssh, "-p", str(port), "echo", "hello"]
    wait_until(lambda: b"hello" in subprocess.run(command, capture_output=True).stdout, 10)
    forward = [*ssh, "-p", str(row["ssh_port"]), "-N", "-L", f"{local}:127.0.0.1:{inner}"]
    with subprocess.Popen(forward, stderr=subprocess.DEVNULL) as tunnel:
        wait_until(lambda: listing(local), 10, lambda: fake.log(number))
        pids = processes(fake)
        sdk(fake).destroy_instance(number)
        assert tunnel.wait(10) != 0
    assert not alive(pids)


# ------------------------------------------------------------------------------------------ faults


def test_intervals_are_kept(fake: FakeVast) -> None:
    fake.set(intervals={"search": 0.3}, retry_after=7)
    vast = sdk(fake)
    vast.search_offers()
    answer = refused(vast.search_offers)
    assert answer.status_code == 429
    assert answer.text == "API requests too frequent"
    assert answer.headers["Retry-After"] == "7"
    time.sleep(0.3)
    vast.search_offers()


REQUESTS = {
    "search": lambda vast, number: vast.search_offers(),
    "show": lambda vast, number: vast.show_instance(number),
    "list": lambda vast, number: vast.show_instances(),
    "logs": lambda vast, number: vast.logs(number),
    "stop": lambda vast, number: vast.stop_instance(number),
    "start": lambda vast, number: vast.start_instance(number),
    "label": lambda vast, number: vast.label_instance(number, "new"),
    "destroy": lambda vast, number: vast.destroy_instance(number),
}


@pytest.mark.parametrize(
    ("name", "options", "status"),
    [
        ("rate_limited", {}, 429),
        ("api_500", {}, 500),
        ("api_500", {"status": 503}, 503),
        ("lost_response", {}, None),
        ("hang", {"seconds": 0.1}, None),
    ],
)
def test_faults_of_requests(fake: FakeVast, name: str, options: dict, status: int | None) -> None:
    number = rent(fake)
    for endpoint, call in REQUESTS.items():
        fake.fault(name, endpoint=endpoint, times=1, **options)
        if status:
            assert refused(lambda call=call: call(sdk(fake), number)).status_code == status
        else:
            with pytest.raises(requests.ConnectionError):
                call(sdk(fake), number)
        if name != "lost_response":
            call(sdk(fake), number)
    assert fake.instances() == []


def test_faults_named_after_one_endpoint(fake: FakeVast) -> None:
    number = rent(fake)
    fake.fault("list_fails", times=1)
    fake.fault("destroy_fails", times=2, status=502)
    vast = sdk(fake)
    assert refused(vast.show_instances).status_code == 500
    assert len(vast.show_instances()) == 1
    for _ in range(2):
        assert refused(lambda: vast.destroy_instance(number)).status_code == 502
    vast.destroy_instance(number)
    fake.fault("search_quota")
    answer = refused(vast.search_offers)
    assert (answer.status_code, answer.json()["error"]) == (429, "search_quota_exceeded")
    assert int(answer.headers["Retry-After"]) > 60
    fake.heal()
    assert vast.search_offers()


@pytest.mark.parametrize(
    ("name", "options", "status", "error"),
    [
        ("offer_gone", {"status": 404}, 404, "invalid_args"),
        ("offer_gone", {"status": 410}, 410, "no_such_ask"),
        ("no_credit", {}, 400, "insufficient_credit"),
    ],
)
def test_creates_that_are_refused(
    fake: FakeVast, name: str, options: dict, status: int, error: str
) -> None:
    fake.fault(name, machine=11, **options)
    answer = refused(lambda: rent(fake))
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert fake.instances() == []
    assert rent(fake, number=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("create_lost_response", {"appears_after": 0.5}),
        ("create_lost_slow", {"seconds": 0.3, "appears_after": 0.8}),
        ("create_500_done", {}),
        ("create_false_with_contract", {}),
    ],
)
def test_creates_that_work_and_do_not_say_so(fake: FakeVast, name: str, options: dict) -> None:
    fake.fault(name, offer=1, times=1, **options)
    begin = time.monotonic()
    with contextlib.suppress(requests.RequestException, AssertionError):
        rent(fake, label="lost")
        assert name == "create_lost_slow"
    assert time.monotonic() - begin >= options.get("seconds", 0)
    query = {"select_filters": {"label": {"eq": "lost"}}}
    found = sdk(fake).show_instances_v1(query)["instances"]
    assert bool(found) == ("appears_after" not in options)
    wait_until(lambda: sdk(fake).show_instances_v1(query)["instances"], 5)
    (inside,) = fake.instances()
    row_when(fake, inside["id"], "running")


@pytest.mark.parametrize("name", OUTCOMES)
def test_instances_that_do_not_come_up(fake: FakeVast, name: str) -> None:
    fake.fault(name, machine=11)
    number = rent(fake, "echo never", env={"-p 8443:8443": "1"})
    row = row_when(fake, number, OUTCOMES[name])
    time.sleep(0.2)
    assert status_of(fake, number) == OUTCOMES[name]
    assert not processes(fake)
    assert bool(row["ports"]) == (name in ("dead_port", "refused_port"))
    assert ("OCI runtime create failed" in row["status_msg"]) == (name == "status_error")
    if row["ports"]:
        check_deaf_port(name, outer_port(row, 8443))
    fake.heal()
    vast = sdk(fake)
    vast.stop_instance(number)
    row_when(fake, number, "exited")
    vast.start_instance(number)
    row_when(fake, number, "running")
    wait_until(lambda: "never" in fake.log(number), 10)


def check_deaf_port(name: str, port: int) -> None:
    if name == "refused_port":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
    else:
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)


def test_a_start_may_be_queued_and_a_row_may_change(fake: FakeVast) -> None:
    number = rent(fake)
    fake.fault("start_unavailable", times=1)
    assert not sdk(fake).start_instance(number)["success"]
    row_when(fake, number, "running")
    fake.change(number, actual_status="offline")
    assert status_of(fake, number) == "offline"


# ---------------------------------------------------------------------------------- what is written


def test_the_journal_tells_all_but_the_key(fake: FakeVast) -> None:
    number = rent(fake, env={"SECRET": "hidden words"}, label="mine")
    row_when(fake, number, "running")
    second = rent(fake, number=2)
    for each in (number, second):
        sdk(fake).destroy_instance(each)
    events = fake.journal()
    assert [each["time"] for each in events] == sorted(each["time"] for each in events)
    created = next(each for each in events if each["kind"] == "created")
    assert (created["instance"], created["label"], created["offer"]) == (number, "mine", 1)
    destroyed = [each["instance"] for each in events if each["kind"] == "destroyed"]
    assert destroyed == [number, second]
    requested = [(e["method"], e["path"], e["status"]) for e in events if e["kind"] == "request"]
    assert requested[0] == ("PUT", "/api/v0/asks/1/", 200)
    assert fake.most_alive() == 2
    assert "hidden words" in fake.journal_text()
    assert "user-agent" in fake.journal_text().lower()
    assert fake.key not in fake.journal_text()
    fake.kill()
    assert fake.journal() == events
