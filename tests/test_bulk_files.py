"""Bulk: what is not safe to read twice or to write over, and streams that are closed."""

import csv
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from clients.bulk.plan import Result
from clients.bulk.records import Passage, Record
from clients.bulk.tables import WrongUse, read_rows
from clients.bulk.write import write_whole
from clients.wire import Ranked
from tests.harness import ROOT, wait_until
from tests.scripted import Scripted, refusing
from tests.test_bulk import check_output, command, rerank, write
from tests.test_bulk_input import read

# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["-", "out.jsonl"])
def test_a_pipe_named_as_a_file_is_refused(tmp_path: Path, to: str):
    """A run reads its input more than once: a pipe would be empty the second time."""
    source, pipe = tmp_path / "in.jsonl", tmp_path / "pipe"
    write(source, 1, 1)
    os.mkfifo(pipe)
    out = to if to == "-" else tmp_path / to
    for arguments in ([pipe], [source, "--passages", pipe]):
        done = rerank(*arguments, "--format", "jsonl", "--url", "http://127.0.0.1:9", "--out", out)
        assert done.returncode == 2 and b"can be read only once" in done.stderr


def test_two_streams_to_the_same_output(tmp_path: Path):
    """The second run is refused, and the first goes on with a stream of its own."""
    out, mine, other = tmp_path / "out.jsonl", tmp_path / "mine.jsonl", tmp_path / "other.jsonl"
    write(mine, 6, 2)
    other.write_text(mine.read_text().replace("query ", "other "))
    with Scripted() as server, mine.open("rb") as stream:
        server.gate.clear()
        arguments = ["-", "--url", server.url, "--out", out, "--batch", 1, "--concurrency", 1]
        first = subprocess.Popen(command(*arguments), cwd=ROOT, stdin=stream)
        wait_until(lambda: server.bodies, 60)
        second = rerank(*arguments, stdin=other.read_bytes())
        assert second.returncode == 2 and b"by another process" in second.stderr
        server.gate.set()
        assert first.wait() == 0
    check_output(out, 6, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.jsonl", "other.jsonl", "out.jsonl"]


def test_an_input_that_changes_meanwhile(tmp_path: Path):
    """Else its new lines would get the scores of the old ones."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 3, 2)
    with Scripted() as server:
        server.gate.clear()
        process = subprocess.Popen(
            command(source, "--url", server.url, "--out", out), cwd=ROOT, stderr=subprocess.PIPE
        )
        wait_until(lambda: server.bodies, 60)
        source.write_text(source.read_text().replace("query ", "other "))
        server.gate.set()
        _, said = process.communicate()
    assert process.returncode == 2 and not out.exists()
    assert said.decode() == f"error: {source} was changed meanwhile: begin anew with --restart\n"


def test_the_header_is_the_first_line_that_says_anything(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text("\nquery,passage\nq,a\n")
    assert [record.where for record in read(path)[0]] == ["in.csv:3"]
    path.write_text('"quer"y,passage\nquery,passage\nq,a\n')
    with pytest.raises(WrongUse, match=r"in\.csv:1: it is no header"):
        list(read_rows(path, "csv", "in.csv"))


def test_parquet_with_values_that_python_has_not(tmp_path: Path):
    """In a column that means nothing they do not matter; else they spoil their own row."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "in.parquet"
    far = pyarrow.array([2**62, 1], pyarrow.timestamp("us"))
    buffers = pyarrow.array([b"q\xff", b"q"]).buffers()
    texts = pyarrow.StringArray.from_buffers(2, *buffers[1:])
    parquet.write_table(pyarrow.table({"query": texts, "passage": ["a", "b"], "at": far}), path)
    found, bad = read(path)
    assert found == [Record("in.parquet:2", "q", None, [Passage("b")])]
    assert len(bad) == 1 and bad[0].startswith("in.parquet:1: it cannot be read ('utf-8' codec")
    parquet.write_table(pyarrow.table({"query": ["q"], "passage": [b"a"]}), path)
    assert read(path)[1] == ["in.parquet:1: passage must be a string; it is of type bytes"]


# -- outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["folder.jsonl", "pipe.jsonl", "x/../in.jsonl", "link.jsonl", "in"])
def test_what_is_not_written_over(tmp_path: Path, out: str):
    """Also with --restart: no folder, no pipe, and no input under another name or as OUT.part."""
    source = tmp_path / ("in.part" if out == "in" else "in.jsonl")
    write(source, 1, 1)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "x").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_text()
    given = ["--out", f"{tmp_path}/{out}", "--format", "jsonl", "--out-format", "jsonl"]
    done = rerank(source, *given, "--restart", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    assert b"is an input too" in done.stderr or b"no file that can be written over" in done.stderr
    assert source.read_text() == before


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_a_lone_carriage_return_ends_no_row(tmp_path: Path, format: str):
    path = tmp_path / "out"
    record = Record("in:1", "a\rb", "x\r", [Passage("\r", "id")])
    write_whole(path, format, [Result(record, [Ranked(0, 0.5, "\r")])], with_texts=True)
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="," if format == "csv" else "\t"))
    assert rows[1:] == [["x\r", "a\rb", "1", "0", "id", "0.5", "", "false", *[""] * 3, "\r"]]


# -- streams, signals and arguments ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("closing", "status", "said"),
    [("<&-", 0, "ranked 1"), (">&-", 2, "error: stdout is closed"), ("2>&-", 0, "")],
)
def test_streams_that_are_closed(tmp_path: Path, closing: str, status: int, said: str):
    """What is told of the run never gets among the results, and there is no traceback."""
    source = tmp_path / "in.jsonl"
    write(source, 1, 1)
    with Scripted() as server:
        line = " ".join([*command(source, "--url", server.url), closing])
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == bool(said)
    assert len(done.stdout.splitlines()) == (status == 0)


def test_interrupted_with_nobody_to_tell(tmp_path: Path):
    """Ctrl-C in `… 2>&1 | tee log` stops tee as well."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 5, 1)
    with Scripted() as server:
        server.gate.clear()
        arguments = [source, "--url", server.url, "--out", out, "--concurrency", 1]
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE)
        wait_until(lambda: server.bodies, 60)
        assert process.stderr
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        server.gate.set()
        process.wait()
    assert not out.exists() and len(server.bodies) == 1
    kept = (tmp_path / "out.jsonl.part").read_text().splitlines()
    assert len(kept) == 2  # the header, and the request that was on its way


def test_ask_is_interrupted_without_a_traceback():
    with Scripted() as server:
        server.gate.clear()
        line = [*command()[:-1], "ask", "--via", "requests", "--url", server.url]
        process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE)
        wait_until(lambda: server.bodies, 60)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b"" and process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "1e300"], "must be a number of seconds, 1,000,000 at most"),
        (["--timeout", "0"], "must be more than 0 seconds"),
        (["--patience", "x"], "must be a number of seconds"),
        (["--url", "127.0.0.1:8000"], "must begin with http:// or https://"),
        (["--batch", "x"], "must be a whole number, 1 or more"),
    ],
)
def test_numbers(arguments: Sequence[str], words: str):
    done = rerank("in.jsonl", *arguments)
    assert done.returncode == 2 and words in done.stderr.decode()


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_option_that_the_server_refuses_is_no_lines_fault(tmp_path: Path, on_error: str):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 3, 1)
    body = b'{"error": {"message": "no prompt reads it", "param": "instruction"}}'
    refused = (400, {}, body)
    arguments = [source, "--out", out, "--on-error", on_error, "--concurrency", 1]
    with Scripted(meddle=lambda asked: refused if "instruction" in asked else None) as server:
        done = rerank(*arguments, "--instruction", "x", "--url", server.url)
        assert done.returncode == 2 and len(server.bodies) == 1
        assert b"refuses what was asked of it (400: no prompt reads it)" in done.stderr
        assert b"in.jsonl:1" not in done.stderr and b"--on-error" not in done.stderr
        assert rerank(*arguments, "--url", server.url).returncode == 0  # nothing was kept of it
    with Scripted(meddle=lambda _: refusing(400)) as server:  # of a line's own fields as before
        done = rerank(*arguments, "--restart", "--url", server.url)
        assert done.returncode == (0 if on_error == "skip" else 2)
        assert b"in.jsonl:1: the server refuses it" in done.stderr
