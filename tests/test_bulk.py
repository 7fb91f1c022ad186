"""`python -m clients rerank` as its users run it: killed, interrupted, refused, and over files that
are larger than its memory. A counting server says what it was asked."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.bulk.plan import requests_of
from clients.bulk.records import Record, records
from clients.bulk.tables import read_rows
from tests.fake_vllm import logit
from tests.harness import ROOT, Server, wait_until
from tests.readers import sigmoid
from tests.scripted import Scripted, refusing
from tests.test_clients import expected
from tests.test_stack_server import start

Pairs = set[tuple[str, str]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "clients", "rerank", *map(str, arguments)]


def rerank(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, input=stdin)


def write(path: Path, queries: int, passages: int, words: str = "") -> Pairs:
    """An input of so many queries, each with so many passages of its own; returns the pairs."""
    with path.open("w") as file:
        for q in range(queries):
            texts = [f"passage {q} {p} {words}" for p in range(passages)]
            line = {"query_id": q, "query": f"query {q}", "passages": texts}
            file.write(json.dumps(line) + "\n")
    return {
        (f"query {q}", f"passage {q} {p} {words}") for q in range(queries) for p in range(passages)
    }


def check_output(path: Path, queries: int, passages: int) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["query_id"] for line in lines] == list(range(queries))
    for q, line in enumerate(lines):
        right = expected(f"query {q}", [f"passage {q} {p} " for p in range(passages)])
        assert [(i["index"], i["score"], i["raw_score"]) for i in line["results"]] == [
            (item.index, item.score, item.raw_score) for item in right
        ]


def kept_pairs(part: Path, source: Path, batch: int) -> Pairs:
    """The pairs whose scores stand in whole lines of a journal."""
    rows = records(read_rows(source, "jsonl", "x"))
    whole = list(requests_of((r for r in rows if isinstance(r, Record)), batch))
    lines = [line for line in part.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    numbers = [json.loads(line)["n"] for line in lines[1:]]
    assert len(set(numbers)) == len(numbers)
    return {(whole[n].record.query, text) for n in numbers for text in whole[n].texts()}


# -- interrupted -----------------------------------------------------------------------------------


def test_killed_again_and_again(tmp_path: Path):
    """After kill -9 nothing is lost, and nothing that was kept is asked again."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    pairs = write(source, 60, 7)
    kept: Pairs = set()
    before: Counter[tuple[str, str]] = Counter()
    with Scripted(delay_s=0.02) as server:
        arguments = [source, "--url", server.url, "--out", out, "--batch", 3, "--concurrency", 3]
        for share in (0.2, 0.5, 0.8):
            process = subprocess.Popen(command(*arguments), cwd=ROOT)
            goal = int(len(pairs) * share)
            wait_until(lambda goal=goal: len(server.answered) >= goal, 60)  # type: ignore[misc]
            process.kill()
            assert process.wait() == -signal.SIGKILL
            assert not out.exists()
            assert all(server.asked[pair] == before[pair] for pair in kept)
            more = kept_pairs(part, source, 3)
            assert kept < more
            kept, before = more, server.asked.copy()
        done = rerank(*arguments)
        assert done.returncode == 0, done.stderr
        assert all(server.asked[pair] == before[pair] for pair in kept)
        assert set(server.asked) == pairs
        again = sum(server.asked.values()) - len(pairs)
        assert again <= 3 * 3 * 2 * 3  # what was on its way at each of three kills
    check_output(out, 60, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_waits_for_what_is_on_its_way(tmp_path: Path, number: signal.Signals):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    pairs = write(source, 20, 5)
    with Scripted() as server:
        server.gate.clear()
        arguments = [source, "--url", server.url, "--out", out, "--batch", 2, "--concurrency", 3]
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE)
        wait_until(lambda: len(server.bodies) == 3, 60)
        process.send_signal(number)
        assert process.stderr and process.stderr.readline() == b"\n"
        assert process.stderr.readline().startswith(b"stopping: waiting for the requests")
        server.gate.set()
        _, said = process.communicate()
        assert process.returncode == 130
        assert len(server.bodies) == 3 and not out.exists()
        assert f"5 of 100 pairs are kept in {out}.part: the same command goes on" in said.decode()
        done = rerank(*arguments)
        assert done.returncode == 0 and done.stderr == b"ranked 20 queries, 100 pairs\n"
        assert server.asked == Counter(pairs)  # none was asked twice
    assert len(out.read_text().splitlines()) == 101


def test_interrupted_twice_it_leaves_at_once(tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 3, 2)
    with Scripted() as server:
        server.gate.clear()
        arguments = [source, "--url", server.url, "--out", out]
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE)
        wait_until(lambda: server.bodies, 60)
        process.send_signal(signal.SIGINT)
        assert process.stderr and process.stderr.readline() == b"\n"
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
        server.gate.set()
        assert rerank(*arguments).returncode == 0
    check_output(out, 3, 2)


def test_a_server_that_goes_and_one_that_comes_back(tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    pairs = write(source, 10, 4)
    arguments = [source, "--out", out, "--batch", 2, "--concurrency", 1, "--patience", 0]

    def going(body: Mapping[str, Any]) -> Any:
        return refusing(503, "on its way out") if body["query"] == "query 4" else None

    with Scripted(meddle=going) as server:
        gone = rerank(*arguments, "--url", server.url)
        first = server.asked
    assert gone.returncode == 1
    assert gone.stderr.decode().splitlines() == [
        f"error: {server.url}: 503: on its way out",
        f"16 of 40 pairs are kept in {out}.part: the same command goes on from there",
    ]
    nobody = rerank(*arguments, "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 1 and nobody.stderr.decode().splitlines()[0] == (
        "error: http://127.0.0.1:9 cannot be reached: Connection refused: start it with"
        " `make serve`, or name it with --url"
    )
    with Scripted() as server:
        done = rerank(*arguments, "--url", server.url, "--restart", "--progress")
        assert server.asked == Counter(pairs)
        assert done.returncode == 0 and b"40.0/40.0" in done.stderr and b"pairs/s" in done.stderr
    assert len(first) > 16
    check_output(out, 10, 4)


def test_a_busy_server_is_waited_for(tmp_path: Path):
    source = tmp_path / "in.jsonl"
    write(source, 4, 3)
    faults = [refusing(429, Retry_After="0.01"), refusing(503), (0, {}, b""), refusing(502)]
    with Scripted(faults) as server:
        done = rerank(source, "--url", server.url, "--out", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    check_output(tmp_path / "out.jsonl", 4, 3)


@pytest.mark.parametrize("status", [401, 404, 500, 504])
def test_what_waiting_does_not_heal(tmp_path: Path, status: int):
    source = tmp_path / "in.jsonl"
    write(source, 4, 3)
    with Scripted([refusing(status, "sorry")] * 9) as server:
        done = rerank(source, "--url", server.url, "--concurrency", 1, "--on-error", "skip")
        assert done.returncode == 1 and f"{status}: sorry" in done.stderr.decode()
        assert len(server.bodies) == 1


def test_an_answer_that_is_no_ranking_stops_it(tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 2, 3)
    with Scripted([(200, {}, b'{"results": []}')]) as server:
        done = rerank(source, "--url", server.url, "--out", out)
    assert done.returncode == 1 and b"0 results for 3 passages" in done.stderr
    assert not out.exists()


# -- in and out ------------------------------------------------------------------------------------


def test_against_the_whole_server(fake_server: Server, tmp_path: Path):
    """More passages than the server takes at once; the ranking is as of one request."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 3, 250)
    done = rerank(source, "--url", fake_server.url, "--out", out, "--batch", 100)
    assert done.returncode == 0, done.stderr
    check_output(out, 3, 250)
    large = rerank(source, "--url", fake_server.url, "--out", tmp_path / "x.csv", "--batch", 101)
    assert large.returncode == 2
    # Several lines are asked at once, and each is too large: whichever is answered first.
    assert re.search(rb"in\.jsonl:[123]: the server refuses it \(413: ", large.stderr)
    assert b"--on-error skip" in large.stderr


def test_a_corpus_and_options(fake_server: Server, tmp_path: Path):
    passages, queries = tmp_path / "passages.csv", tmp_path / "queries.tsv"
    passages.write_text("id,text\n" + "".join(f"p{i},text {i}\n" for i in range(20)))
    queries.write_text('query_id\tquery\tcandidates\na\tq one\t["p3","p4"]\nb\tq two\t\n')
    out = tmp_path / "out.jsonl"
    done = rerank(
        queries, "--passages", passages, "--url", fake_server.url, "--out", out, "--model", "fake",
        "--top-n", 2, "--texts", "--max-tokens-per-doc", 100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = [json.loads(line) for line in out.read_text().splitlines()]
    best = expected("q two", [f"text {i}" for i in range(20)])[:2]
    assert [(i["id"], i["text"], i["score"]) for i in two["results"]] == [
        (f"p{item.index}", item.text, item.score) for item in best
    ]
    assert (one["query_id"], {i["id"] for i in one["results"]}) == ("a", {"p3", "p4"})
    unknown = rerank(queries, "--passages", passages, "--url", fake_server.url, "--model", "zz")
    assert unknown.returncode == 1 and b"There is no model 'zz'" in unknown.stderr


def test_through_pipes(fake_server: Server, tmp_path: Path):
    source = tmp_path / "in.jsonl"
    write(source, 30, 3)
    url = ["--url", fake_server.url]
    streamed = rerank("-", *url, stdin=source.read_bytes())
    assert streamed.returncode == 0 and streamed.stderr == b"ranked 30 queries\n"
    (tmp_path / "out.jsonl").write_bytes(streamed.stdout)
    check_output(tmp_path / "out.jsonl", 30, 3)
    assert rerank(source, *url).stdout == streamed.stdout
    kept = rerank("-", *url, "--out", tmp_path / "kept.jsonl", stdin=source.read_bytes())
    assert kept.returncode == 0, kept.stderr
    assert (tmp_path / "kept.jsonl").read_bytes() == streamed.stdout
    table = rerank(
        "-", *url, "--format", "csv", "--out-format", "tsv", stdin=b"query,passage\nq,a\n"
    )
    score = sigmoid(logit("q", "a"))
    assert table.stdout.decode().splitlines()[1].split("\t")[:7] == [
        "", "q", "1", "0", "", repr(score), repr(logit("q", "a")),
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "kept.jsonl", "out.jsonl"]


def test_stdin_to_a_file_is_gone_on_with(tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    pairs = write(source, 20, 2)
    arguments = ["-", "--out", out, "--concurrency", 1, "--patience", 0]
    with Scripted(meddle=lambda b: refusing(503) if b["query"] == "query 9" else None) as server:
        gone = rerank(*arguments, "--url", server.url, stdin=source.read_bytes())
        assert gone.returncode == 1
        first = {pair for pair in server.asked if pair[0] != "query 9"}
    other = rerank(*arguments, "--url", server.url, stdin=b"")
    assert other.returncode == 1  # nobody is there any more
    with Scripted() as server:
        changed = rerank(*arguments, "--url", server.url, stdin=b'{"query": "x"}')
        assert changed.returncode == 2 and b"the queries changed" in changed.stderr
        done = rerank(*arguments, "--url", server.url, stdin=source.read_bytes())
        assert done.returncode == 0, done.stderr
        assert set(server.asked) == pairs - first
    check_output(out, 20, 2)


def test_a_reader_that_leaves_ends_it_without_a_word(tmp_path: Path):
    source = tmp_path / "in.jsonl"
    write(source, 2000, 2)
    with Scripted() as server:
        process = subprocess.Popen(
            command(source, "--url", server.url),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout and process.stdout.readline().startswith(b'{"query_id": 0')
        process.stdout.close()
        assert process.wait() == 1
        assert process.stderr and process.stderr.read() == b""
        process.stderr.close()
        assert len(server.bodies) < 2000


def test_a_cascade_is_asked_whole(tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 2, 9)
    top = "  both: {cascade: {first: a, then: b, keep: 2}}\n"
    with start(tmp_path, a={}, b={}, top=top) as server:
        server.until_ready()
        done = rerank(source, "--url", server.url, "--out", out, "--model", "both", "--batch", 2)
        assert done.returncode == 0, done.stderr
        texts = [f"passage 0 {p} " for p in range(9)]
        body = {"model": "both", "query": "query 0", "documents": texts}
        right = server.post("/v2/rerank", body).json()["results"]
    line = json.loads(out.read_text().splitlines()[0])
    assert [(i["index"], i["score"], i["stage"]) for i in line["results"]] == [
        (item["index"], item["relevance_score"], item["stage"]) for item in right
    ]
    assert [i["stage"] for i in line["results"]] == ["then"] * 2 + ["first"] * 7


@pytest.mark.vllm
def test_a_file_on_the_real_model(minilm_server: Server, tmp_path: Path):
    """Scores agree with the server's own to the last digit, however the file is split."""
    source = tmp_path / "in.jsonl"
    texts = [f"passage {p} about deep learning and pizza" for p in range(7)] + ["long " * 600]
    source.write_text(json.dumps({"query": "What is deep learning?", "passages": texts}) + "\n")
    right = minilm_server.rerank("What is deep learning?", texts)
    for batch in (1, 3, 256):
        done = rerank(source, "--url", minilm_server.url, "--batch", batch)
        assert done.returncode == 0, done.stderr
        items = json.loads(done.stdout)["results"]
        assert {item["index"]: item["score"] for item in items} == dict(enumerate(right))
        assert [item["index"] for item in items if item["truncated"]] == [7]


# -- wrong use -------------------------------------------------------------------------------------


def test_bad_lines(fake_server: Server, tmp_path: Path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 2, 3)
    with source.open("a") as file:
        file.write('{"query": "q", "passages": []}\n{"query": "!400", "passages": ["a"]}\n')
    failing = rerank(source, "--url", fake_server.url, "--out", out)
    assert failing.returncode == 2
    assert f"error: {source}:3: passages is empty" in failing.stderr.decode()
    done = rerank(source, "--url", fake_server.url, "--out", out, "--on-error", "skip")
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        f"skipped: {source}:3: passages is empty",
        f"skipped: {source}:4: the server refuses it (400: The engine refused the request: as you"
        " wished)",
        "ranked 2 queries, 7 pairs; skipped 2",
    ]
    check_output(out, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody.jsonl"], "nobody.jsonl cannot be read: No such file"),
        (["{in}", "--passages", "nobody.csv"], "nobody.csv cannot be read: No such file"),
        (["{in}", "--out", "out.txt"], "the suffix names none of jsonl, csv, tsv, parquet"),
        (["in.txt"], "give its --format"),
        (["-", "--passages", "-"], "--passages must be a file"),
        (["{in}", "--out", "no/folder/out.csv"], "no/folder is no folder"),
        (["{in}", "--out", "{in}"], "is an input too"),
        (["-", "--format", "parquet"], "parquet"),
    ],
)
def test_wrong_arguments(fake_server: Server, tmp_path: Path, arguments: Sequence[str], words: str):
    source = tmp_path / "in.jsonl"
    write(source, 1, 1)
    full = [argument.replace("{in}", str(source)) for argument in arguments]
    done = rerank(*full, "--url", fake_server.url)
    assert done.returncode == 2 and words in done.stderr.decode(), done.stderr
    assert b"Traceback" not in done.stderr and source.read_text()


def test_parquet_needs_pyarrow(tmp_path: Path):
    code = (
        "import sys; sys.modules['pyarrow'] = None; from clients.__main__ import main;"
        " sys.exit(main(['rerank', 'in.parquet', '--url', 'http://127.0.0.1:9']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "parquet needs pyarrow: `pip install pyarrow`" in done.stderr


def test_a_disk_that_is_full(tmp_path: Path):
    source = tmp_path / "in.jsonl"
    write(source, 2, 2)
    with Scripted() as server, Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(source, "--url", server.url), cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1 and b"No space left" in done.stderr


# -- memory ----------------------------------------------------------------------------------------


def peak_mib(*arguments: object) -> float:
    """The most resident memory of a run, in MiB, as the kernel counts it for that program alone."""
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.PIPE)
    peak = 0

    def ended() -> bool:
        nonlocal peak
        status = Path(f"/proc/{process.pid}/status").read_text()
        lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(int(line.split()[1]) for line in lines)])
        return process.poll() is not None

    wait_until(ended, 200)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return peak / 1024


def test_memory_does_not_grow_with_the_input(tmp_path: Path, record_property: Any):
    """80 MB of queries with passages, and 80 MB of corpus, against an input of a few lines."""
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    words = "word " * 400
    write(small, 5, 40, words)
    write(large, 1000, 40, words)
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    with corpus.open("w") as file:
        for p in range(40_000):
            file.write(json.dumps({"id": p, "text": f"passage {p} {words}"}) + "\n")
    with queries.open("w") as file:
        for q in range(100):
            ids = list(range(q, 40_000, 1000))
            file.write(json.dumps({"query": f"query {q}", "candidates": ids}) + "\n")
    assert min(path.stat().st_size for path in (large, corpus)) > 80e6
    with Scripted() as server:
        url = ["--url", server.url]
        least = peak_mib(small, *url, "--out", tmp_path / "1.jsonl")
        streamed = peak_mib(large, *url, "--out", tmp_path / "2.jsonl")
        indexed = peak_mib(queries, "--passages", corpus, *url, "--out", tmp_path / "3.csv")
    record_property(
        "measured",
        f"bulk: peak memory {least:.0f} MiB, of 80 MB of input {streamed:.0f} MiB, of a corpus of"
        f" 80 MB {indexed:.0f} MiB",
    )
    assert max(streamed, indexed) - least < 25
