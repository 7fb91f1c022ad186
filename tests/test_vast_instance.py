"""What Vast.ai and the start script say of an instance, and what is made of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.vast.instance import Instance, Said, failure, from_row, said

ROW = {
    "id": 31000001,
    "label": "rerank-serve-minilm-abc123-1",
    "machine_id": 11,
    "actual_status": "running",
    "intended_status": "running",
    "status_msg": "success, running image\n",
    "public_ipaddr": " 203.0.113.7\n",
    "ports": {"8443/tcp": [{"HostIp": "0.0.0.0", "HostPort": "41610"}]},
    "dph_total": 0.12,
    "start_date": 1_700_000_000.5,
}
NOTHING = Instance(
    id=0,
    label="",
    machine=0,
    status="",
    intended="",
    message="",
    host="",
    ports={},
    hourly=0,
    started=0,
)


# ----------------------------------------------------------------------------------------- a row


def test_a_row():
    assert from_row(ROW) == Instance(
        id=31000001,
        label="rerank-serve-minilm-abc123-1",
        machine=11,
        status="running",
        intended="running",
        message="success, running image",
        host="203.0.113.7",
        ports={"8443/tcp": 41610},
        hourly=0.12,
        started=1_700_000_000.5,
    )
    assert from_row(ROW).address(8443) == ("203.0.113.7", 41610)
    assert from_row(ROW).address(22) is None


@pytest.mark.parametrize("row", [{}, dict.fromkeys(ROW)], ids=["missing", "null"])
def test_a_row_that_says_nothing(row: dict):
    assert from_row(row) == NOTHING
    assert from_row(row).address(8443) is None
    assert from_row(row).cost(now=1.7e9) == 0


V4, V6 = {"HostIp": "0.0.0.0", "HostPort": "41610"}, {"HostIp": "::", "HostPort": "41611"}


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ({"8443/tcp": [V4], "22/tcp": [V6]}, {"8443/tcp": 41610, "22/tcp": 41611}),
        ({"8443/tcp": [V4, V6]}, {"8443/tcp": 41610}),
        ({"8443/tcp": [{"HostPort": None}, V4]}, {"8443/tcp": 41610}),
        ({"8443/tcp": [{"HostPort": 41610}]}, {"8443/tcp": 41610}),
        ({"8443/tcp": None}, {}),
        ({"8443/tcp": [None, {}, {"HostPort": ""}, {"HostPort": "²"}, {"HostPort": "-1"}]}, {}),
        ({}, {}),
        (None, {}),
        ("8443", {}),
    ],
)
def test_ports(ports: object, found: dict[str, int]):
    assert from_row({**ROW, "ports": ports}).ports == found


@pytest.mark.parametrize(("host", "ports"), [(None, ROW["ports"]), (" \n", ROW["ports"])])
def test_no_address_without_a_host(host: object, ports: object):
    assert from_row({**ROW, "public_ipaddr": host, "ports": ports}).address(8443) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["8443/tcp", "HostPort"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(ROW)), json_values))
def test_any_row_is_an_instance(row: dict):
    found = from_row(row)
    failure(found)
    assert found.cost(now=1.7e9) >= 0


@pytest.mark.parametrize(
    ("now", "cost"),
    [(1_700_003_600.5, 0.12), (1_700_001_800.5, 0.06), (1_700_000_000.5, 0), (1_699_999_000, 0)],
)
def test_the_cost_so_far(now: float, cost: float):
    assert from_row(ROW).cost(now) == pytest.approx(cost)
    assert from_row({**ROW, "start_date": None}).cost(now) == 0


# ------------------------------------------------------------------------------ will it ever run?

OCI = "Error response from daemon: failed to create task for container: OCI runtime create failed"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actual_status": "exited"}, "its status is exited (success, running image)"),
        ({"actual_status": "exited", "status_msg": None}, "its status is exited"),
        ({"actual_status": "unknown", "status_msg": "x"}, "its status is unknown (x)"),
        ({"actual_status": "offline", "status_msg": "x"}, "its status is offline (x)"),
        ({"actual_status": "frozen", "status_msg": "x"}, "its status is frozen (x)"),
        ({"intended_status": "stopped", "status_msg": "x"}, "Vast.ai stops it (x)"),
        ({"intended_status": "stopped", "actual_status": None, "status_msg": ""}, "Vast.ai stops"),
        ({"actual_status": "created", "status_msg": OCI + "\n"}, f"its host says: {OCI}"),
        (
            {"actual_status": None, "status_msg": "Error: no space"},
            "its host says: Error: no space",
        ),
        ({"actual_status": "loading", "status_msg": "pull failed"}, "its host says: pull failed"),
        (
            {"actual_status": "loading", "status_msg": "OCI runtime x"},
            "its host says: OCI runtime x",
        ),
        (
            {"actual_status": "created", "status_msg": "Permission\ndenied"},
            "its host says: Permission",
        ),
    ],
)
def test_what_will_never_run(changes: dict, words: str):
    assert (failure(from_row({**ROW, **changes})) or "").startswith(words)


@pytest.mark.parametrize("status", [None, "created", "loading", "running", "rebooting"])
@pytest.mark.parametrize(
    "message",
    [
        None,
        "",
        "success, running vllm/vllm-openai_v0.32.0/args",
        "4c7d45f7c63c: Pull complete",
        "Verifying Checksum, 0 errors",
        "terror and unfailed",
    ],
)
def test_what_may_still_run(status: str | None, message: str | None):
    assert failure(from_row({**ROW, "actual_status": status, "status_msg": message})) is None


def test_what_runs_is_not_judged_by_its_message():
    assert failure(from_row({**ROW, "status_msg": "success, running org/error"})) is None


def test_a_long_message_is_cut():
    row = {**ROW, "actual_status": "exited", "status_msg": "x" * 5000}
    assert len(failure(from_row(row)) or "") < 400


# ------------------------------------------------------------------------- what its log tells of it

PRINT = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
BEGIN = f"rerank-serve: fingerprint {PRINT} run 17\n"
WAITING = "rerank-serve: waiting for the program\n"
STARTING = "rerank-serve: starting\n"
STAMP = "2026-10-01T12:00:00.123456789Z "


LOGS = [
    ("", Said()),
    ("\n\n", Said()),
    ("no such container\n", Said(last_line="no such container")),
    (BEGIN, Said(PRINT, "17")),
    (BEGIN.strip(), Said(PRINT, "17")),
    (BEGIN + WAITING, Said(PRINT, "17", "waiting for the program")),
    (BEGIN + "\n\n" + WAITING + "\n", Said(PRINT, "17", "waiting for the program")),
    (
        BEGIN + WAITING + "rerank-serve: installing\nCollecting x\n" + STARTING,
        Said(PRINT, "17", "starting", last_line="Collecting x"),
    ),
    (
        BEGIN + STARTING + "error: no model 'x'\nbye\nrerank-serve: ended with status 2\n",
        Said(PRINT, "17", "ended with status 2", 2, "error: no model 'x'"),
    ),
    (
        BEGIN + STARTING + "one\ntwo\nrerank-serve: ended with status 0\n",
        Said(PRINT, "17", "ended with status 0", 0, "two"),
    ),
    (  # it ended, and waits for its end
        BEGIN + "rerank-serve: ended with status 1\nrerank-serve: its time is over\n",
        Said(PRINT, "17", "its time is over", 1),
    ),
    (  # an earlier run
        f"rerank-serve: fingerprint {OTHER} run 16\nan error\nrerank-serve: ended with status 1\n"
        + BEGIN
        + STARTING,
        Said(PRINT, "17", "starting"),
    ),
    (BEGIN + STARTING + BEGIN.replace("17", "18"), Said(PRINT, "18")),
    (STARTING, Said(step="starting")),  # its beginning is cut off
    (BEGIN + STARTING + "x" * 5000, Said(PRINT, "17", "starting", last_line="x" * 300)),
]


@pytest.mark.parametrize(("log", "expected"), LOGS)
def test_logs(log: str, expected: Said):
    assert said(log) == said(log.replace("\n", "\r\n")) == expected


@pytest.mark.parametrize(("log", "expected"), LOGS)
def test_logs_behind_the_time(log: str, expected: Said):
    found = said("".join(STAMP + line for line in log.splitlines(keepends=True)))
    assert replace(found, last_line="") == replace(expected, last_line="")
    assert expected.last_line[:200] in found.last_line


@pytest.mark.parametrize(
    "line",
    [
        "12:00:00 INFO rerank-serve: ended with status 1",
        "INFO: rerank-serve: ended with status 1",
        "x rerank-serve: ended with status 1",
        "#rerank-serve: ended with status 1",
        '{"text": "rerank-serve: ended with status 1"}',
        "  rerank-serve: ended with status 1",
        f"{STAMP}x rerank-serve: ended with status 1",
        f"{STAMP}{STAMP}rerank-serve: ended with status 1",
        "rerank-serve: ended with status 1 and more",
        f"x rerank-serve: fingerprint {OTHER} run 99",
        f"a\rrerank-serve: fingerprint {OTHER} run 99",
        f"a\x85rerank-serve: fingerprint {OTHER} run 99",
        f"a\u2028rerank-serve: fingerprint {OTHER} run 99",
        f"rerank-serve: fingerprint {OTHER} run 99 and more",
        f"rerank-serve: fingerprint {OTHER[:-1]} run 99",
        f"rerank-serve: fingerprint {OTHER}0 run 99",
        f"rerank-serve: fingerprint {OTHER.upper()} run 99",
        f"rerank-serve: fingerprint {OTHER}",
    ],
)
def test_what_others_write_does_not_count(line: str):
    found = said(BEGIN + STARTING + line + "\n")
    assert (found.fingerprint, found.run, found.ended) == (PRINT, "17", None)


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=20), max_size=5))
def test_garbage_around_does_not_matter(lines: list[str]):
    garbage = "".join(f"| {line}\n" for line in lines)
    found = said(garbage + BEGIN + garbage + STARTING + garbage)
    assert (found.fingerprint, found.run, found.step, found.ended) == (
        PRINT,
        "17",
        "starting",
        None,
    )
    assert len(found.last_line) <= 300


@given(st.text())
def test_any_log_is_read(log: str):
    assert said(log).fingerprint is None
