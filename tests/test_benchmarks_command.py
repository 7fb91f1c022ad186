"""`python -m benchmarks`: its options, its last line, and what it says when it cannot measure."""

import json
import pkgutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import gateway, interactive, repeats
from benchmarks.load.targets import Target
from benchmarks.load.texts import Question
from benchmarks.outcome import MeasureError, Outcome, UsageError
from tests.harness import KEY, ROOT, Server, write_config

Capture = pytest.CaptureFixture[str]


def measured(capture: Capture, *arguments: object, status: int = 0) -> tuple[dict, str, str]:
    """The last line, all lines, and what was said on standard error."""
    assert command.main([*map(str, arguments)]) == status
    said = capture.readouterr()
    return json.loads(said.out.splitlines()[-1]), said.out, said.err


def refused(capture: Capture, *arguments: object) -> str:
    """The one line of a wrong command."""
    try:
        assert command.main([*map(str, arguments)]) == 2
    except SystemExit as exit:  # argparse's
        assert exit.code == 2
    said = capture.readouterr()
    assert said.out == "" or said.out.startswith("\n")
    assert "Traceback" not in said.err
    return said.err.splitlines()[-1]


def test_load_at_a_rate_writes_nothing_by_itself(
    fake_server: Server, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    told, out, err = measured(
        capsys, "load", fake_server.url, "--rate", "40", "--seconds", "0.5", "--passages", "2"
    )
    (outcome,) = told["outcomes"]
    (row,) = outcome["rows"]
    assert row["load"] == "40/s" and row["failed"] == 0 and row["requests"] > 3
    assert "Open loop" in outcome["notes"][0] and "Open loop" in out
    assert {"command", "machine", "versions", "date", "broken"} <= told.keys()
    assert err == "" and list(tmp_path.iterdir()) == []


def test_load_of_clients_mixed_over_a_socket_with_failures(fake_server: Server, capsys: Capture):
    socket = next(fake_server.run_dir.glob("*/engine-0-*/http.sock"))
    told, _, _ = measured(
        capsys,
        *("load", "http://engine/score", "--socket", socket, "--dialect", "queries"),
        *("--clients", "1,3", "--seconds", "0.2", "--mix"),
    )
    rows = told["outcomes"][0]["rows"]
    assert {row["load"] for row in rows} == {"1 client", "3 clients"}
    assert {row["passages"] for row in rows} >= {"all", "4"}
    assert "service times" in told["outcomes"][0]["notes"][0]
    # More passages than our server takes: each such request is counted by its code.
    told, out, _ = measured(
        capsys,
        *("load", fake_server.url, "--clients", 2, "--seconds", 0.4, "--words", 3),
        *("--passages", "4:0.5,101:0.5", "--seed", "x"),
    )
    (failures,) = [each["failures"] for each in told["outcomes"][0]["details"].values()]
    assert [name.split()[0] for name in failures] == ["413"]
    assert "requests failed" in out


def test_popular_texts_with_a_key(keyed_server: Server, tmp_path: Path, capsys: Capture):
    keys = tmp_path / "keys"
    keys.write_text(f"somebody {KEY}\n")
    told, out, err = measured(
        capsys,
        *("load", keyed_server.url, "--api-key-file", keys, "--seconds", "0.2"),
        *("--zipf", "1", "--distinct", "50"),
    )
    assert told["outcomes"][0]["rows"][0]["failed"] == 0
    assert "50 pairs by Zipf" in out and KEY not in out + err
    told, _, err = measured(capsys, "load", keyed_server.url, "--seconds", "0.2", status=1)
    assert "not one right answer" in told["broken"]["load"] and "401" in err


def test_sizes_of_two_servers_in_turns(fake_server: Server, keyed_server: Server, capsys: Capture):
    told, _, _ = measured(
        capsys,
        *("sizes", "--target", f"a={fake_server.url}", "--target", f"b={keyed_server.url}"),
        *("--passages", "1,200", "--words", "5", "--clients", "2", "--seconds", "0.05"),
        *("--rounds", "1"),
    )
    (outcome,) = told["outcomes"]
    assert [(row["varies"], row["server"]) for row in outcome["rows"]] == [
        (kind, name) for kind in ("passages", "passages", "words", "clients") for name in "ab"
    ]
    assert len(outcome["charts"]) == 9
    good = {(row["passages"], row["server"]): row["requests"] > 0 for row in outcome["rows"]}
    assert good[1, "a"] and not good[200, "a"]  # more than it takes
    assert not good[1, "b"]  # without its key
    assert any("401" in note for note in outcome["notes"])


def test_a_report_is_written_where_it_is_asked_for(
    fake_server: Server, tmp_path: Path, capsys: Capture
):
    folder = tmp_path / "made" / "out"
    told, out, _ = measured(capsys, "load", fake_server.url, "--seconds", "0.2", "--out", folder)
    names = sorted(path.name for path in folder.iterdir())
    assert "report.html" in names and "results.json" in names
    assert [name for name in names if name.endswith(".png")] == [
        "01-latency-by-percentile.png",
        "02-latency-over-time.png",
    ]
    assert json.loads((folder / "results.json").read_text()) == told
    assert f"{folder}/report.html" in out
    assert fake_server.url in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["load"], "url"),
        (["load", "127.0.0.1:8000"], "http://127.0.0.1:8000"),
        (["load", "http://x", "--rate", "0"], "--rate"),
        (["load", "http://x", "--rate", "1,x"], "--rate"),
        (["load", "http://x", "--rate", "1", "--clients", "1"], "--clients"),
        (["load", "http://x", "--rate", "1e8"], "--rate: at most"),
        (["load", "http://x", "--clients", "1.5"], "--clients"),
        (["load", "http://x", "--passages", "9-3"], "--passages: 9-3"),
        (["load", "http://x", "--words", "lognormal:x"], "--words"),
        (["load", "http://x", "--distinct", "9"], "--distinct"),
        (["load", "http://x", "--zipf", "1", "--distinct", "3"], "--distinct: 3 pairs"),
        (["load", "http://x", "--zipf", "-1"], "--zipf"),
        (["load", "http://x", "--dialect", "other"], "--dialect"),
        (["load", "http://x", "--route", "rerank"], "--route rerank"),
        (["load", "http://x", "--socket", "/none"], "--socket /none"),
        (["load", "http://x", "--api-key-file", "/none"], "--api-key-file"),
        (["load", "http://x", "--out", "/proc/none"], "--out /proc/none"),
        (["load", "http://x", "--out", "/etc/hostname"], "--out /etc/hostname"),
        (["load", "http://x", "--seconds", "nan"], "--seconds"),
        (["load", "http://x", "--in-flight", "0"], "--in-flight"),
        (["sizes"], "--target"),
        (["sizes", "--target", "x"], "--target"),
        (["sizes", "--target", "a=http://x", "--target", "a=http://y"], "--target"),
        (["sizes", "http://x", "--passages", "1,0"], "--passages"),
        (["gateway", "--over", "it"], "--over"),
        (["startup", "--runs", "0"], "--runs"),
        (["repeats", "--distinct", "63"], "--distinct: 63 pairs are too few"),
        (["interactive", "--passages", "0"], "--passages"),
        (["nothing"], "invalid choice"),
        (["--rate", "5"], "unrecognized"),
    ],
)
def test_a_wrong_option_is_named(arguments: Sequence[str], said: str, capsys: Capture):
    assert said in refused(capsys, *arguments)


def test_nobody_at_the_address_is_told_in_one_line(capsys: Capture):
    told, _, err = measured(capsys, "load", "http://127.0.0.1:1", "--seconds", "0.1", status=1)
    assert len(err.splitlines()) == 1 and "is the server running?" in err
    assert "http://127.0.0.1:1/rerank" in told["broken"]["load"]


def test_every_measurement_of_the_table_is_there():
    for name, (module, _) in command.MEASUREMENTS.items():
        found = pkgutil.resolve_name(f"benchmarks.{module}")
        assert callable(found.add_arguments) and callable(found.run), name
    assert set(command.ALL) < command.MEASUREMENTS.keys()


class Told:
    """A measurement that says, breaks, or is asked wrongly."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def add_arguments(self, parser: object) -> None: ...

    def run(self, _: object) -> list[Outcome]:
        if self.error:
            raise self.error
        return [Outcome("fine", "it was measured", [{"a": 1}])]


def test_one_that_breaks_does_not_stop_the_others(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    errors = iter([None, MeasureError("no engine"), UsageError("no peer"), ValueError("bug"), None])
    monkeypatch.setattr(command, "_find", lambda _: Told(next(errors)))
    told, out, err = measured(capsys, "all", status=1)
    assert [outcome["name"] for outcome in told["outcomes"]] == ["fine", "fine"]
    assert list(told["broken"].values()) == ["no engine", "no peer", "bug"]
    assert "Traceback" in err  # of what nobody expected
    assert out.count("  it was measured") == 2


def test_the_gateway_over_nothing(capsys: Capture):
    told, _, _ = measured(
        capsys, "gateway", "--over", "nothing", "--seconds", "0.05", "--rounds", "1"
    )
    assert [row["passages"] for row in told["outcomes"][0]["rows"]] == [4, 100]


def test_a_small_request_beside_a_large_one(tmp_path: Path):
    config = write_config(tmp_path)
    with Server(config, tmp_path, env={"FAKE_PAIR_S": "0.001"}) as server:
        outcome = interactive.measure(server.until_ready().url, 600, rate=40, seconds=0.2)
    (figure,) = outcome.figures
    assert figure.value > 0 and not figure.is_least and figure.wanted == 2
    assert [row["requests"] > 0 for row in outcome.rows] == [True, True]
    assert outcome.details["large_s"] > 0.59


def test_a_stream_with_the_cache_and_without(tmp_path: Path):
    options = Namespace(requests=16, distinct=300, zipf=1.0, clients=2)
    with ExitStack() as servers:
        urls = []
        for mib in (64, 0):
            folder = tmp_path / str(mib)
            folder.mkdir()
            config = write_config(folder, f"cache: {{memory_mib: {mib}}}\n")
            urls.append(servers.enter_context(Server(config, folder)).until_ready().url)
        outcome = repeats.measure(urls[0], urls[1], repeats.stream(options), options)
    assert [row["requests"] for row in outcome.rows] == [16, 4, 16, 16]
    none, again, cold, warm = (row["from the cache"] for row in outcome.rows)
    assert (none, again, warm) == ("0.0%", "0.0%", "100.0%") and cold not in (none, warm)
    assert outcome.figures[0].wanted == 20


def test_a_fast_wrong_score_does_not_count():
    question = Question("q", ["p"])
    ours, theirs = (
        repeats.Side(Target("x", "http://x"), scores=[(question, [score])]) for score in (0.5, 0.6)
    )
    repeats.check(ours, ours)
    with pytest.raises(MeasureError, match=r"0\.5.*0\.6"):
        repeats.check(ours, theirs)


def test_gateway_turns_have_each_passage_as_often_as_they_say():
    question = next(gateway.questions(1, 64, 2, "s"))
    assert (len(question.passages), len(set(question.passages))) == (64, 32)
    cells = [next(gateway.questions(*cell, "s")) for cell in gateway.CELLS]
    texts = [text for one in cells for text in {one.query, *one.passages}]
    assert len(set(texts)) == len(texts)  # no cell's texts are known from another


def test_as_a_program(fake_server: Server):
    program = [sys.executable, "-W", "error", "-m", "benchmarks"]
    done = subprocess.run(
        [*program, "load", fake_server.url, "--seconds", "0.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["outcomes"]
