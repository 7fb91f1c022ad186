"""Bulk: records to requests, replies in a journal, rankings to files; and all of it interrupted."""

import csv
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.bulk import plan
from clients.bulk.dispatch import AHEAD, Stop, dispatch
from clients.bulk.job import BadInput, Interrupted, Job, Run
from clients.bulk.journal import Journal
from clients.bulk.plan import Exchange, Reply, Request, Result, cuts, in_order, join, requests_of
from clients.bulk.progress import Progress
from clients.bulk.records import Passage, Record
from clients.bulk.server import choose
from clients.bulk.source import Table
from clients.bulk.tables import WrongUse
from clients.bulk.write import columns, open_writer, write_whole
from clients.errors import BadRequest, TimedOut, Unavailable
from clients.wire import Chunk, Ranked
from tests.fake_vllm import logit
from tests.readers import sigmoid

text = st.text(st.characters(exclude_categories=["Cs"]))
HEADER: Mapping[str, object] = {"queries": "digest", "options": {"batch": 2}}


def ranking(query: str, passages: Sequence[str]) -> list[Ranked]:
    raw = [logit(query, text) for text in passages]
    order = sorted(range(len(raw)), key=lambda i: (-raw[i], i))
    return [Ranked(i, sigmoid(raw[i]), passages[i], raw[i]) for i in order]


def record(number: int, count: int) -> Record:
    passages = [Passage(f"passage {number} {index}", index) for index in range(count)]
    return Record(f"in:{number}", f"query {number}", number, passages)


def replied(request: Request) -> Exchange:
    return Exchange(request, Reply(request.n, ranking(request.record.query, request.texts())))


# -- the plan --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, plan.MOST_CHARS + 5), min_size=1), st.integers(1, 9))
def test_parts_are_within_their_bounds(lengths: list[int], batch: int):
    stops = cuts(lengths, batch)
    starts = [0, *stops[:-1]]
    assert stops[-1] == len(lengths)
    for start, stop in zip(starts, stops, strict=True):
        assert 1 <= stop - start <= batch
        assert stop - start == 1 or sum(lengths[start:stop]) <= plan.MOST_CHARS


@given(st.lists(st.integers(1, 9)), st.one_of(st.none(), st.integers(1, 4)), st.data())
def test_parts_merged_are_the_whole(sizes: list[int], batch: int | None, data: st.DataObject):
    whole = [record(number, size) for number, size in enumerate(sizes)]
    requests = list(requests_of(whole, batch))
    assert [request.n for request in requests] == list(range(len(requests)))
    answers = data.draw(st.permutations([replied(request) for request in requests]))
    results = list(join(in_order(answers)))
    assert [result.record for result in results] == whole
    for result in results:
        passages = [passage.text for passage in result.record.passages]
        assert result.items == ranking(result.record.query, passages)
    if batch is None:
        assert len(requests) == len(whole)


def test_equal_values_keep_the_order_of_the_input():
    one = record(0, 4)
    requests = list(requests_of([one], 2))
    tie = [
        Exchange(request, Reply(request.n, [Ranked(0, 1.0, "", 40.0), Ranked(1, 1.0, "", 39.0)]))
        for request in requests
    ]
    assert [item.index for item in next(join(tie)).items] == [0, 2, 1, 3]
    # A server that tells no raw values: the scores themselves.
    plain = [
        Exchange(request, Reply(request.n, [Ranked(0, 0.5, "", raw), Ranked(1, 0.4, "")]))
        for request, raw in zip(requests, (1.0, None), strict=True)
    ]
    assert [item.index for item in next(join(plain)).items] == [0, 2, 1, 3]


def test_a_cascades_order_is_left_alone():
    order = [Ranked(1, 0.2, "", -1.0, stage="then"), Ranked(0, 0.9, "", 3.0, stage="first")]
    (request,) = requests_of([record(0, 2)], None)
    assert [i.index for i in next(join([Exchange(request, Reply(0, order))])).items] == [1, 0]


def test_a_refused_part_takes_its_record_along():
    requests = list(requests_of([record(0, 5), record(1, 1)], 2))
    exchanges = [replied(request) for request in requests]
    exchanges[1] = Exchange(requests[1], Reply(1, refusal="400: no"))
    results = list(join(exchanges))
    assert [(result.refusal, len(result.items)) for result in results] == [
        ("400: no", 0),
        (None, 1),
    ]


def test_a_reply_of_another_length_is_never_a_ranking():
    (request,) = requests_of([record(0, 3)], None)
    with pytest.raises(ValueError, match="2 items are kept for 3 pairs"):
        list(join([Exchange(request, Reply(0, ranking("q", ["a", "b"])))]))


def test_the_model_that_will_answer():
    entries = [
        {"id": "a", "default": True},
        {"id": "b", "llm": True},
        {"id": "both", "cascade": {"first": "a"}},
    ]
    assert choose(entries, None, False)["id"] == "a"
    assert choose(entries, None, True)["id"] == "b"
    assert choose(entries, "BOTH", False)["id"] == "both"
    assert choose(entries, "unknown", True)["id"] == "a"
    assert choose([], "a", False) == {}


# -- dispatch --------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 4))
@settings(max_examples=20)
def test_all_requests_are_asked_once_and_few_at_a_time(count: int, concurrency: int):
    lock, now, most = threading.Lock(), 0, 0
    asked: Counter[int] = Counter()

    def ask(request: Request) -> Reply:
        nonlocal now, most
        with lock:
            asked[request.n] += 1
            now += 1
            most = max(most, now)
        reply = replied(request).reply
        with lock:
            now -= 1
        return reply

    requests = requests_of([record(number, 1) for number in range(count)], 1)
    done = [
        exchange
        for exchanges in dispatch(requests, ask, concurrency=concurrency, stop=Stop())
        for exchange in exchanges
    ]
    assert asked == Counter(range(count)) and most <= concurrency
    assert sorted(exchange.n for exchange in done) == list(range(count))


def test_a_slow_request_holds_back_those_far_ahead():
    """The first does not end before the second had every chance to begin too early."""
    begun, ended = threading.Event(), threading.Event()
    first, second, *_ = requests_of([record(number, 1) for number in range(2)], 1)

    def ask(request: Request) -> Reply:
        if request is first:
            begun.wait(0.3)
            ended.set()
        else:
            assert ended.is_set()
            begun.set()
        return replied(request).reply

    for distance, concurrency in ((2 * AHEAD, 2), (3 * AHEAD, 3)):
        ended.clear()
        far = Request(distance, second.record, 0, 1)
        replies = list(dispatch(iter([first, far]), ask, concurrency=concurrency, stop=Stop()))
        assert [exchange.n for some in replies for exchange in some] == [0, distance]


def test_after_a_failure_no_more_is_sent_and_what_was_answered_is_given():
    barrier = threading.Barrier(2)

    def ask(request: Request) -> Reply:
        if request.n < 2:
            barrier.wait(30)
        if request.n:
            raise TimedOut("too slow")
        return replied(request).reply

    got: list[int] = []
    stop = Stop()
    requests = requests_of([record(number, 1) for number in range(1000)], 1)
    with pytest.raises(TimedOut):
        for exchanges in dispatch(requests, ask, concurrency=2, stop=stop):
            got += [exchange.n for exchange in exchanges]
    assert got == [0] and stop.asked
    assert next(requests).n < 10


def test_when_its_reader_fails_nothing_is_asked_for_nobody():
    asked: list[int] = []

    def ask(request: Request) -> Reply:
        asked.append(request.n)
        return replied(request).reply

    requests = requests_of([record(number, 1) for number in range(1000)], 1)
    replies = dispatch(requests, ask, concurrency=2, stop=Stop())
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert len(asked) < 20


# -- the journal -----------------------------------------------------------------------------------


def test_a_journal_knows_what_it_has(tmp_path: Path):
    path = tmp_path / "part"
    chunk = Chunk(1, 3, 0, 9)
    items = [Ranked(0, 0.1 + 0.2, "", -1e-300, None, "then"), Ranked(1, 0.1, "", chunk=chunk)]
    replies = [Reply(n, items) for n in (2, 0, 5)]
    replies.append(Reply(1, refusal="no\n"))
    with Journal(path, HEADER) as journal:
        journal.append(replies[:1])
        journal.append(replies[1:])
        assert [n for n in range(9) if journal.has(n)] == [0, 1, 2, 5]
    with Journal(path, HEADER) as journal:
        assert list(journal.replies()) == replies
        assert [n for n in range(9) if journal.has(n)] == [0, 1, 2, 5] and journal.count == 4
        with pytest.raises(WrongUse, match="another process"):
            Journal(path, HEADER)


def test_a_journal_of_another_run_is_refused(tmp_path: Path):
    path = tmp_path / "part"
    with Journal(path, HEADER) as journal:
        journal.append([Reply(0)])
    kept = path.read_bytes()
    for name in HEADER:
        with pytest.raises(WrongUse, match=f"the {name} changed"):
            Journal(path, {**HEADER, name: "else"})
    assert path.read_bytes() == kept
    with Journal(path, {**HEADER, "queries": "else"}, restart=True) as journal:
        assert journal.count == 0
    # Without a reply nothing is lost: a corrected input needs no --restart.
    with Journal(path, {**HEADER, "queries": "third"}):
        assert b"third" in path.read_bytes()
    path.write_text("no journal\nat all\n")
    with pytest.raises(WrongUse, match="file's form"):
        Journal(path, HEADER)


@given(st.integers(0, 10**6))
def test_an_unfinished_end_is_cut_off(cut: int):
    with TemporaryDirectory() as folder:
        path = Path(folder, "part")
        with Journal(path, HEADER) as journal:
            journal.append([Reply(n, ranking("q", ["a", "b"])) for n in range(4)])
        whole = path.read_bytes()
        path.write_bytes(whole[: cut % (len(whole) + 1)])
        lines = path.read_bytes().count(b"\n")
        with Journal(path, HEADER) as journal:
            assert journal.count == max(0, lines - 1)
            journal.append([Reply(n, ranking("q", ["a", "b"])) for n in range(journal.count, 4)])
        assert path.read_bytes() == whole


def test_what_a_power_cut_left_is_cut_off(tmp_path: Path):
    path = tmp_path / "part"
    with Journal(path, HEADER) as journal:
        journal.append([Reply(0), Reply(1)])
    with path.open("ab") as file:
        file.write(b"\0" * 20 + b"\n" + b'{"n": 3}\n')
    with Journal(path, HEADER) as journal:
        assert journal.count == 2
    assert b"\0" not in path.read_bytes()


# -- writing ---------------------------------------------------------------------------------------


def results() -> Iterator[Result]:
    odd = Record("in:1", 'quote " and\r\nline', None, [Passage(", \t"), Passage("é", "x")])
    yield Result(odd, [Ranked(1, 0.5, "é", None, None), Ranked(0, 0.25, ", \t", -1.5, True)])
    chunk = Chunk(2, 3, 0, 9)
    item = Ranked(0, 0.1 + 0.2, "passage 7 0", 1e-9, False, "first", chunk)
    yield Result(record(7, 1), [item])


def test_json_lines():
    file = io.BytesIO()
    writer = open_writer(file, "jsonl", with_texts=True)
    for result in results():
        writer.write(result)
    writer.close()
    first, second = map(json.loads, file.getvalue().splitlines())
    assert first["query"] == 'quote " and\r\nline' and "query_id" not in first
    assert first["results"][1] == {
        "index": 0,
        "score": 0.25,
        "raw_score": -1.5,
        "truncated": True,
        "text": ", \t",
    }
    assert second["query_id"] == 7
    assert second["results"][0]["score"] == 0.1 + 0.2
    assert (second["results"][0]["id"], second["results"][0]["stage"]) == (0, "first")
    assert second["results"][0]["chunk"] == {"index": 2, "count": 3, "start": 0, "end": 9}


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path: Path, format: str, delimiter: str):
    path = tmp_path / "out"
    write_whole(path, format, results(), with_texts=True)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert list(rows[0]) == columns(with_texts=True)
    assert [(row["query"], row["rank"], row["index"], row["passage_id"]) for row in rows] == [
        ('quote " and\r\nline', "1", "1", "x"),
        ('quote " and\r\nline', "2", "0", ""),
        ("query 7", "1", "0", "0"),
    ]
    assert [row["truncated"] for row in rows] == ["", "true", "false"]
    parts = [(row["chunk_start"], row["chunk_end"]) for row in rows]
    assert parts == [("", ""), ("", ""), ("0", "9")]
    assert float(rows[2]["score"]) == 0.1 + 0.2 and rows[1]["passage"] == ", \t"
    write_whole(path, format, results(), with_texts=False)
    assert path.read_text().splitlines()[0] == delimiter.join(columns(with_texts=False))


def test_parquet(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    write_whole(path, "parquet", results(), with_texts=True)
    rows = parquet.read_table(path).to_pylist()
    assert [(row["query_id"], row["rank"], row["score"]) for row in rows] == [
        (None, 1, 0.5),
        (None, 2, 0.25),
        ("7", 1, 0.1 + 0.2),
    ]
    assert [(row["chunk_start"], row["chunk_end"]) for row in rows[1:]] == [(None, None), (0, 9)]
    write_whole(path, "parquet", [], with_texts=False)
    assert parquet.read_table(path).column_names == columns(with_texts=False)


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path):
    def broken() -> Iterator[Result]:
        yield from results()
        assert not path.exists()
        raise Unavailable("gone", status=503)

    path = tmp_path / "out"
    with pytest.raises(Unavailable):
        write_whole(path, "jsonl", broken(), with_texts=False)
    assert list(tmp_path.iterdir()) == []


# -- whole runs, interrupted anywhere --------------------------------------------------------------


class Counting:
    """A server that counts, and sets `stop` with its `last` request."""

    def __init__(self, stop: Stop, last: int = -1) -> None:
        self.stop, self.last = stop, last
        self.asked: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        self.requests = 0

    def identity(self) -> Mapping[str, object]:
        return {"root": "counting"}

    def rank(self, query: str, passages: Sequence[str]) -> list[Ranked]:
        with self.lock:
            self.requests += 1
            self.asked.update((query, text) for text in passages)
            if self.requests == self.last:
                self.stop.set()
        if query.startswith("refused"):
            raise BadRequest("no", status=400)
        return ranking(query, passages)


def job(folder: Path, **changes: Any) -> Job:
    path = folder / "in.jsonl"
    defaults: dict[str, Any] = {
        "queries": Table(path, "jsonl", path.name),
        "passages": None,
        "format": "jsonl",
        "out": folder / "out.jsonl",
        "out_format": "jsonl",
        "top_n": None,
        "with_texts": False,
        "batch": 2,
        "concurrency": 2,
        "skip": False,
        "restart": False,
        "scoring": {},
    }
    return Job(**{**defaults, **changes})


def go(todo: Job, last: int = -1) -> Counting:
    stop = Stop()
    server = Counting(stop, last)
    assert todo.out
    with Progress(shown=False) as progress:
        Run(todo, server, stop, progress).to_file(todo.out, io.BytesIO())
    return server


def put(folder: Path, sizes: Sequence[int]) -> set[tuple[str, str]]:
    """An input of records with so many passages each; returns its pairs."""
    whole = [record(number, size) for number, size in enumerate(sizes)]
    lines = [{"query": r.query, "passages": [p.text for p in r.passages]} for r in whole]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {(r.query, p.text) for r in whole for p in r.passages}


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    batch=st.integers(1, 4),
    concurrency=st.integers(1, 3),
    interruptions=st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), max_size=3),
    form=st.sampled_from(["jsonl", "csv"]),
    top_n=st.one_of(st.none(), st.integers(1, 3)),
)
@settings(max_examples=60)
def test_any_interruption_gives_the_same_bytes_and_asks_nothing_twice(
    sizes: list[int],
    batch: int,
    concurrency: int,
    interruptions: list[tuple[int, float]],
    form: str,
    top_n: int | None,
):
    """Each interruption is after so many requests, and leaves such a part of the last write."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        pairs = put(folder, sizes)
        how = {"batch": batch, "out_format": form, "top_n": top_n}
        go(job(folder, **how, concurrency=1, out=folder / "whole"))
        todo = job(folder, **how, concurrency=concurrency)
        part = folder / "out.jsonl.part"
        whole = list(requests_of((record(i, size) for i, size in enumerate(sizes)), batch))
        for last, share in [*interruptions, (-1, 0.0)]:
            kept: set[tuple[str, str]] = set()
            if part.exists():
                for line in part.read_bytes().splitlines(keepends=True)[1:]:
                    if line.endswith(b"\n"):
                        request = whole[json.loads(line)["n"]]
                        kept |= {(request.record.query, text) for text in request.texts()}
            try:
                server = go(todo, last)
            except Interrupted:
                assert not (folder / "out.jsonl").exists()
                before = part.read_bytes()
                tail = len(before) - before[:-1].rfind(b"\n") - 1
                part.write_bytes(before[: len(before) - int(share * tail)])
                continue
            assert set(server.asked) == pairs - kept
            assert set(server.asked.values()) <= {1}
            break
        assert (folder / "out.jsonl").read_bytes() == (folder / "whole").read_bytes()
        assert {path.name for path in folder.iterdir()} == {"in.jsonl", "whole", "out.jsonl"}


def interrupted(folder: Path, **changes: Any) -> None:
    with pytest.raises(Interrupted):
        go(job(folder, **changes), last=1)
    assert (folder / "out.jsonl.part").exists()


def test_what_changed_since_is_told(tmp_path: Path):
    put(tmp_path, [3, 3, 3, 3, 3, 3])
    interrupted(tmp_path)
    kept = (tmp_path / "out.jsonl.part").read_bytes()
    for words, changes in (
        ("the options changed", {"batch": 3}),
        ("the options changed", {"scoring": {"model": "other"}}),
        ("the passages changed", {"passages": Table(tmp_path / "in.jsonl", "jsonl", "x")}),
    ):
        with pytest.raises(WrongUse, match=words):
            go(job(tmp_path, **changes))
    put(tmp_path, [3, 3, 3, 3, 3, 2])
    with pytest.raises(WrongUse, match=r"the queries changed.*--restart"):
        go(job(tmp_path))
    assert (tmp_path / "out.jsonl.part").read_bytes() == kept
    assert len(go(job(tmp_path, restart=True)).asked) == 17
    with pytest.raises(WrongUse, match="is there already: --restart writes over it"):
        go(job(tmp_path))


def test_another_model_behind_the_same_address_is_told(tmp_path: Path):
    class Other(Counting):
        def identity(self) -> Mapping[str, object]:
            return {"root": "counting", "revision": "2"}

    put(tmp_path, [3] * 6)
    interrupted(tmp_path)
    stop = Stop()
    with Progress(shown=False) as progress:
        run = Run(job(tmp_path), Other(stop), stop, progress)
        with pytest.raises(WrongUse, match="the server's model changed"):
            run.to_file(tmp_path / "out.jsonl", io.BytesIO())


def test_what_does_not_change_scores_may_change(tmp_path: Path):
    put(tmp_path, [3] * 6)
    interrupted(tmp_path)
    first = len((tmp_path / "out.jsonl.part").read_bytes().splitlines()) - 1
    server = go(job(tmp_path, top_n=1, with_texts=True, concurrency=1, skip=True))
    assert server.requests == 12 - first


def test_a_run_with_restart_can_be_gone_on_with(tmp_path: Path):
    """The old result stays until the new one is whole, and does not stand in the way."""
    put(tmp_path, [3] * 6)
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    interrupted(tmp_path, restart=True)
    assert out.read_text() == "old"
    assert go(job(tmp_path)).requests < 12
    assert len(out.read_text().splitlines()) == 6


def test_a_bad_line_is_found_before_anything_is_asked(tmp_path: Path):
    put(tmp_path, [3] * 3)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("{\n")
    stop = Stop()
    server = Counting(stop)
    with Progress(shown=False) as progress:
        run = Run(job(tmp_path), server, stop, progress)
        with pytest.raises(BadInput, match=r"^in\.jsonl:4: it is not JSON"):
            run.to_file(tmp_path / "out.jsonl", io.BytesIO())
    assert not server.asked
    assert len(go(job(tmp_path, skip=True)).asked) == 9
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_what_the_server_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    put(tmp_path, [3, 3])
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"query": "refused", "passages": ["a", "b", "c"]}\n')
    with pytest.raises(BadInput, match=r"^in\.jsonl:3: the server refuses it \(400: no\)"):
        go(job(tmp_path, concurrency=1))
    again = go(job(tmp_path, skip=True))
    assert set(again.asked) == {("refused", text) for text in "abc"}
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert capsys.readouterr().err == ("skipped: in.jsonl:3: the server refuses it (400: no)\n")
