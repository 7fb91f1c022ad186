"""Bulk: files to records. Every bad line is told with its place, and no other line is lost."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.bulk import corpus as corpus_module
from clients.bulk.corpus import Corpus
from clients.bulk.records import Bad, Passage, Record, Row, Unusable, records
from clients.bulk.source import Source, Table
from clients.bulk.tables import WrongUse, format_of, read_rows, read_stream

text = st.text(st.characters(exclude_categories=["Cs"]))
ids = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.integers()


def read(path: Path, passages: Path | None = None) -> tuple[list[Record], list[str]]:
    """All records of a file, and its bad lines as they are told."""
    bad: list[Bad] = []
    tables = [Table(p, format_of(p.name), p.name) if p else None for p in (path, passages)]
    assert tables[0]
    with Source(tables[0], tables[1], index=path.parent / "index", on_bad=bad.append) as source:
        found = list(source.records(bad.append))
        assert list(source.records(lambda _: None)) == found  # as often as asked
    return found, [f"{line.where}: {line.reason}" for line in bad]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


# -- shapes ----------------------------------------------------------------------------------------


def test_each_line_with_its_passages(tmp_path: Path):
    path = lines(
        tmp_path / "in.jsonl",
        {"query": "q", "passages": ["a", {"id": 7, "text": "b"}, {"text": ""}], "other": 1},
        "",
        {"query": "", "query_id": "x", "passages": ["a"]},
        {"query": "", "query_id": "x", "passages": ["a"]},
    )
    found, bad = read(path)
    assert found == [
        Record("in.jsonl:1", "q", None, [Passage("a"), Passage("b", 7), Passage("")]),
        Record("in.jsonl:3", "", "x", [Passage("a")]),
        Record("in.jsonl:4", "", "x", [Passage("a")]),
    ]
    assert bad == []


def test_flat_lines_of_one_query_belong_together(tmp_path: Path):
    path = lines(
        tmp_path / "in.ndjson",
        {"query": "q", "passage": "a", "passage_id": "1"},
        {"query": "q", "passage": "b"},
        {"query": "q", "passage": "c", "query_id": 1},
        {"query": "q", "passage": "d", "query_id": "1"},
        {"query": "r", "passage": "e"},
        {"query": "r", "passages": ["whole"]},
        {"query": "r", "passage": "f"},
    )
    found, bad = read(path)
    assert [(r.where[-1], r.query_id, [p.text for p in r.passages]) for r in found] == [
        ("1", None, ["a", "b"]),
        ("3", 1, ["c"]),
        ("4", "1", ["d"]),
        ("5", None, ["e"]),
        ("6", None, ["whole"]),
        ("7", None, ["f"]),
    ]
    assert bad == []


def test_candidates_of_a_corpus(tmp_path: Path):
    passages = lines(
        tmp_path / "passages.jsonl",
        {"id": "a", "text": "one"},
        {"id": 2, "text": "two"},
        {"passage_id": "c", "passage": "three"},
        {"id": "a", "text": "again"},
        {"text": "no id"},
        {"id": "d"},
        "{",
    )
    path = lines(
        tmp_path / "queries.jsonl",
        {"query": "q", "candidates": ["c", 2]},
        {"query": "all"},
        {"query": "q", "candidates": ["2", "nobody"]},
        {"query": "q", "candidates": ["2", 2]},
        {"query": "q", "candidates": []},
        {"query": "q", "candidates": [None]},
        {"query": "q", "candidates": 3},
        {"candidates": ["c"]},
        {"query": "q", "passages": ["own"]},
        {"query": "q", "candidates": ["c"], "passage": "own"},
    )
    found, bad = read(path, passages)
    three = [Passage("one", "a"), Passage("two", "2"), Passage("three", "c")]
    assert [list(record.passages) for record in found] == [[three[2], three[1]], three]
    assert bad == [
        "passages.jsonl:4: the id 'a' is there already",
        "passages.jsonl:5: it has no `id`",
        "passages.jsonl:6: it has no `text`",
        "passages.jsonl:7: it is not JSON (Expecting property name enclosed in double quotes:"
        " line 1 column 2 (char 1))",
        "queries.jsonl:3: candidates names 'nobody', which is not in the file of passages",
        "queries.jsonl:4: candidates names '2' twice",
        "queries.jsonl:5: candidates is empty",
        "queries.jsonl:6: candidates has a null: it must be a list of ids",
        "queries.jsonl:7: candidates must be a list; it is a number",
        "queries.jsonl:8: it has no `query`",
        "queries.jsonl:9: it has own passages, and --passages was given: use one",
        "queries.jsonl:10: it has own passages, and --passages was given: use one",
    ]
    assert not (tmp_path / "index").exists()


def test_many_candidates_and_a_corpus_too_large_for_all(tmp_path: Path):
    count = corpus_module.MOST_FOR_ALL + 1
    with Corpus(tmp_path / "index") as corpus:
        rows = (Row(str(i), {"id": i, "text": f"text {i}"}) for i in range(count))
        assert list(corpus.fill(rows)) == [] and len(corpus) == count
        wanted = [str(i) for i in range(count - 1, 0, -3)]
        assert [p.text for p in corpus.lookup(wanted)] == [f"text {i}" for i in wanted]
        with pytest.raises(Unusable, match="10001 passages are too many"):
            corpus.lookup(None)
    with Corpus(tmp_path / "index") as empty, pytest.raises(Unusable, match="is empty"):
        empty.lookup(None)


@given(st.dictionaries(text.filter(bool), text, min_size=1))
def test_a_corpus_gives_what_it_took(passages: dict[str, str]):
    """Also what SQLite might read otherwise: NULs, numbers, case."""
    with TemporaryDirectory() as folder, Corpus(Path(folder, "index")) as corpus:
        rows = [Row("x", {"id": id, "text": words}) for id, words in passages.items()]
        assert list(corpus.fill(rows)) == []
        for ids in (None, list(passages), list(passages)[::-1]):
            found = [(p.id, p.text) for p in corpus.lookup(ids)]
            assert found == [(id, passages[id]) for id in ids or passages]


def test_a_corpus_that_has_no_place(tmp_path: Path):
    with pytest.raises(OSError, match="unable to open"):
        Corpus(tmp_path / "no" / "folder")


# -- bad lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is not JSON (Expecting property name"),
        ('{"query": "q", "passages": ["a"]', "it is not JSON"),
        ("[1]", "it must be a JSON object"),
        ("[" * 99_999, "it is not JSON"),
        ({"passages": ["a"]}, "it has no `query`"),
        ({"query": None, "passages": ["a"]}, "it has no `query`"),
        ({"query": 3, "passages": ["a"]}, "query must be a string; it is a number"),
        ({"query": "q"}, "it has neither `passages` nor `passage`"),
        ({"query": "q", "passages": []}, "passages is empty"),
        ({"query": "q", "passages": "a"}, "passages must be a list (in csv and tsv: as JSON)"),
        ({"query": "q", "passages": {"a": 1}}, "passages must be a list; it is an object"),
        ({"query": "q", "passages": None}, "passages must be a list; it is null"),
        ({"query": "q", "passages": ["a", 1]}, "passages[1] must be a string or {id, text}"),
        ({"query": "q", "passages": ["a", None]}, "passages[1] must be a string or {id, text}"),
        ({"query": "q", "passages": [{"id": 1}]}, "it has no `passages[0].text`"),
        ({"query": "q", "passages": [{"text": 1}]}, "passages[0].text must be a string"),
        ({"query": "q", "passages": [{"id": 1.5, "text": ""}]}, "passages[0].id must be a string"),
        ({"query": "q", "query_id": True, "passages": ["a"]}, "query_id must be a string or a"),
        ({"query": "q", "passage": ["a"]}, "passage must be a string; it is a list"),
        ({"query": "q", "passage": "a", "passages": ["a"]}, "it has both"),
        ({"query": "q", "passages": ["a"], "candidates": [1]}, "it has both `passages` and `cand"),
        ({"query": "q", "passage": "a", "candidates": [1]}, "it has both `passage` and `candidat"),
        ({"query": "q", "candidates": [1]}, "it has `candidates`: name the file of their texts"),
        ('{"query": "\\ud800", "passages": ["a"]}', "query is not valid Unicode"),
        ('{"query": "q", "passages": ["\\udfff"]}', "passages[0] is not valid Unicode"),
    ],
)
def test_a_bad_line_is_told_and_no_other_is_lost(tmp_path: Path, line: object, reason: str):
    before, after = {"query": "q", "passage": "a"}, {"query": "q", "passage": "b"}
    path = lines(tmp_path / "in.jsonl", before, line, after)
    found, bad = read(path)
    assert len(bad) == 1 and bad[0].startswith(f"in.jsonl:2: {reason}")
    assert [[p.text for p in record.passages] for record in found] == [["a", "b"]]


def test_bytes_that_are_no_utf8(tmp_path: Path):
    for name in ("in.jsonl", "in.csv"):
        path = tmp_path / name
        good = (
            b'{"query": "q", "passage": "a"}\n' if name == "in.jsonl" else b"query,passage\nq,a\n"
        )
        wrong = b'{"query": "q", "passage": "\xff"}\n' if name == "in.jsonl" else b"q,\xff\n"
        path.write_bytes(good + wrong)
        found, bad = read(path)
        assert len(found) == len(bad) == 1 and bad[0].startswith(name)


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    for name, content in (
        ("in.jsonl", '{"query": "q", "passage": "a"}\n'),
        ("in.csv", "query,passage\nq,a\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read(tmp_path / name)[0][0].query == "q"


# -- csv and tsv -----------------------------------------------------------------------------------


def test_cells_of_a_table(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text(
        "query_id,query,passage_id,passage,more\n"
        '1,"a, b",,"two\nlines",x\n'
        '1,"a, b",7,,x\n'
        "2,c,8,d\n"
        ',e,9,"f",x\n'
    )
    found, bad = read(path)
    assert found == [
        Record("in.csv:2", "a, b", "1", [Passage("two\nlines"), Passage("", "7")]),
        Record("in.csv:6", "e", None, [Passage("f", "9")]),
    ]
    assert bad == ["in.csv:5: it has 4 cells, and the header 5"]


def test_lists_in_cells(tmp_path: Path):
    path = tmp_path / "in.tsv"
    path.write_text('query\tpassages\nq\t"[""a"", {""id"": 1, ""text"": ""b""}]"\nr\t[]\ns\tab\n')
    found, bad = read(path)
    assert [record.passages for record in found] == [[Passage("a"), Passage("b", 1)]]
    assert [line.split(":")[1] for line in bad] == ["3", "4"]
    passages = tmp_path / "passages.csv"
    passages.write_text("id,text\n1,one\n2,two\n")
    path.write_text("query\tcandidates\nq\t[2]\nr\t\n")
    found, bad = read(path, passages)
    assert [[p.id for p in record.passages] for record in found] == [["2"], ["1", "2"]]


def test_an_open_quote_does_not_swallow_the_rest_in_silence(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text('query,passage\nq,a\nq,"b\nq,c\nq,d\n')
    found, bad = read(path)
    assert bad == ["in.csv:3: it is not a row (unexpected end of data)"]
    assert [[p.text for p in record.passages] for record in found] == [["a"]]


def test_a_long_cell(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text("query,passage\nq," + "x" * 300_000 + "\n")
    assert len(read(path)[0][0].passages[0].text) == 300_000


def test_a_column_twice(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text("query,query\na,b\n")
    with pytest.raises(WrongUse, match="twice"):
        read(path)


@given(st.lists(st.tuples(text, st.lists(st.tuples(text, ids), min_size=1)), max_size=5))
def test_every_format_says_the_same(groups: Sequence[tuple[str, Sequence[tuple[str, object]]]]):
    """jsonl with passages, flat jsonl, csv and tsv give the same records, whatever the texts."""
    whole = [
        {"query_id": i, "query": query, "passages": [{"text": t, "id": id} for t, id in passages]}
        for i, (query, passages) in enumerate(groups)
    ]
    flat = [
        {"query_id": i, "query": query, "passage": t, "passage_id": id}
        for i, (query, passages) in enumerate(groups)
        for t, id in passages
    ]

    def parse(content: str, format: str) -> list[tuple[str, str, list[tuple[str, object]]]]:
        file = io.BytesIO(content.encode())
        found = list(records(read_stream(file, "in", format)))
        assert not any(isinstance(item, Bad) for item in found)
        return [
            (
                str(r.query_id),
                r.query,
                [(p.text, None if p.id is None else str(p.id)) for p in r.passages],
            )
            for r in found
            if isinstance(r, Record)
        ]

    expected = parse("".join(json.dumps(line) + "\n" for line in whole), "jsonl")
    assert len(expected) == len(groups)
    assert parse("".join(json.dumps(line) + "\n" for line in flat), "jsonl") == expected
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(
            out, ["query_id", "query", "passage", "passage_id"], delimiter=delimiter
        )
        writer.writeheader()
        writer.writerows(flat)
        assert parse(out.getvalue(), format) == expected


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "given", "format"),
    [
        ("a.jsonl", None, "jsonl"),
        ("a.NDJSON", None, "jsonl"),
        ("a.b.csv", None, "csv"),
        ("a.tsv", "csv", "csv"),
        ("a.parquet", None, "parquet"),
        ("-", None, "jsonl"),
        ("-", "tsv", "tsv"),
    ],
)
def test_formats(path: str, given: str | None, format: str):
    assert format_of(path, given) == format


def test_what_cannot_be_read(tmp_path: Path):
    with pytest.raises(WrongUse, match=r"names none of jsonl, csv, tsv, parquet"):
        format_of("a.txt")
    for path in (tmp_path / "nobody.jsonl", tmp_path):
        with pytest.raises(WrongUse, match="cannot be read"):
            list(read_rows(path, "jsonl", "x"))
        with pytest.raises(WrongUse, match="cannot be read"):
            Table(path, "jsonl", "x").digest()
    with pytest.raises(WrongUse, match="stream"):
        read_stream(io.BytesIO(), "x", "parquet")


def test_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "in.parquet"
    table = {
        "query": ["q", "r", "s"],
        "query_id": [1, None, 3],
        "passages": [[{"id": "a", "text": "x"}, {"id": None, "text": "y"}], [], None],
    }
    parquet.write_table(pyarrow.table(table), path)
    found, bad = read(path)
    assert found == [Record("in.parquet:1", "q", 1, [Passage("x", "a"), Passage("y")])]
    assert bad == [
        "in.parquet:2: passages is empty",
        "in.parquet:3: it has neither `passages` nor `passage`",
    ]
    path.write_text("no parquet")
    with pytest.raises(WrongUse, match="cannot be read as parquet"):
        read(path)
