"""`python -m benchmarks quality`: readers, measures, the first stage, and whole runs."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from benchmarks.outcome import MeasureError, Outcome, UsageError
from benchmarks.quality import add_arguments, files, first_stage, own, run
from benchmarks.quality.collection import Collection, answerable, sample
from benchmarks.quality.measures import estimate, per_query
from tests.harness import ROOT, Server
from tests.scripted import MODEL, Scripted, refusing
from tests.test_stack_server import start

QUERIES = {"1": "red apple pie", "2": "deep blue sea", "3": "nothing of it"}
TEXTS = {
    "a": "red apple pie",
    "b": "an apple that is red",
    "c": "a pie of meat",
    "d": "the deep blue sea",
    "e": "a blue car",
    "f": "stones",
}
QRELS = [("1", "a", 2), ("1", "b", 1), ("1", "c", 0), ("2", "d", 1), ("3", "f", 0)]
WORST_FIRST = {"1": "cba", "2": "ed"}


def write_lines(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def write_beir(folder: Path) -> Path:
    corpus = [{"_id": id, "title": "", "text": text} for id, text in TEXTS.items()]
    write_lines(folder / "corpus.jsonl", *corpus)
    queries = [{"_id": id, "text": text} for id, text in QUERIES.items()]
    write_lines(folder / "queries.jsonl", *queries)
    rows = ["\t".join(map(str, row)) for row in QRELS]
    write_lines(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", *rows)
    return folder


def write_run(path: Path) -> Path:
    rows = [
        f"{query} Q0 {id} {rank} {1 / rank} tag"
        for query, ids in WORST_FIRST.items()
        for rank, id in enumerate(ids, 1)
    ]
    return write_lines(path, *rows)


def parsed(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(map(str, arguments)))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", "quality", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def rows_of(outcome: Outcome | dict[str, Any]) -> list[dict[str, Any]]:
    rows: Any = outcome.rows if isinstance(outcome, Outcome) else outcome["rows"]
    return list(rows)


# --- measures


def test_the_measures_are_those_computed_by_hand():
    grades = {"x": {"d2": 1, "d3": 2, "d9": 0}, "y": {"d5": 1}, "z": {"d1": 1}}
    ranked = {"x": ["d1", "d2", "d3"], "y": ["d4"]}
    found = per_query(ranked, grades, ["z", "x", "y"], depth=2, threshold=1)
    gain = (1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    assert found["nDCG@10"] == pytest.approx([0, gain, 0])
    assert found["RR@10"] == pytest.approx([0, 1 / 2, 0])
    assert found["R@10"] == pytest.approx([0, 1, 0])
    assert found["R@2"] == pytest.approx([0, 1 / 2, 0])
    strict = per_query(ranked, grades, ["x"], depth=10, threshold=2)
    assert strict["nDCG@10"] == pytest.approx([gain])
    assert strict["RR(rel=2)@10"] == pytest.approx([1 / 3])
    assert sorted(strict) == ["R(rel=2)@10", "RR(rel=2)@10", "nDCG@10"]


def test_what_is_beyond_the_tenth_place_does_not_count():
    ranked = {"x": [f"d{place}" for place in range(1, 13)]}
    found = per_query(ranked, {"x": {"d11": 1}}, ["x"], depth=12, threshold=1)
    assert [found[name][0] for name in ("nDCG@10", "RR@10", "R@10", "R@12")] == [0, 0, 0, 1]


def test_the_order_counts_and_no_id():
    """Equal scores would be ranked by their ids."""
    for ids in (["a", "z"], ["z", "a"]):
        found = per_query({"x": ids}, {"x": {ids[0]: 1}}, ["x"], depth=10, threshold=1)
        assert found["RR@10"] == [1]


def test_an_interval_is_reproducible_and_changes_with_the_seed():
    values = np.random.default_rng(1).random(30)
    assert estimate(values, 5) == estimate(values, 5)
    assert estimate(values, 5).span != estimate(values, 6).span


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    source, held = np.random.default_rng(0), 0
    for seed in range(60):
        span = estimate(source.normal(0.4, 0.3, 50), seed).span
        assert span
        held += span[0] < 0.4 < span[1]
    assert 52 <= held < 60


def test_what_is_significant():
    better = np.random.default_rng(2).normal(0.1, 0.1, 50)
    assert estimate(better, 0).is_significant and estimate(-better, 0).is_significant
    assert estimate(better - 0.1, 0).is_significant is False
    assert estimate(np.zeros(9), 0).is_significant is False
    assert estimate(np.array([0.7]), 0).is_significant is None


# --- readers


def test_a_beir_folder_is_read(tmp_path: Path):
    folder = write_beir(tmp_path)
    write_lines(folder / "queries.jsonl", *({"_id": id, "text": QUERIES[id]} for id in QUERIES))
    write_lines(
        folder / "corpus.jsonl",
        *({"_id": id, "title": f"title of {id}", "text": text} for id, text in TEXTS.items()),
    )
    read = files.folder(folder, None, None)
    assert read.queries == QUERIES
    assert read.texts["a"] == "title of a red apple pie"
    assert read.grades == {"1": {"a": 2, "b": 1, "c": 0}, "2": {"d": 1}, "3": {"f": 0}}


def test_a_folder_of_one_split_needs_no_name(tmp_path: Path):
    folder = write_beir(tmp_path)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert files.folder(folder, None, None).queries == QUERIES
    with pytest.raises(UsageError, match=r"has no qrels/test.tsv: --split may be dev"):
        files.folder(folder, "test", None)


def test_trec_files_are_read(tmp_path: Path):
    corpus = write_lines(tmp_path / "c.tsv", "d1\tone text", "d2\ttitle\ttext\r", "", "d3\tthird")
    topics = tmp_path / "q.tsv"
    topics.write_bytes("\ufeff7\twhat is ü\n".encode())
    qrels = write_lines(tmp_path / "qrels.txt", "7 0 d1 1", "7 0 d2 -1")
    ranked = write_lines(tmp_path / "run", "7 Q0 d2 3 0.5 t", "7 Q0 d3 2 0.5 t", "7 Q0 d1 9 9e0 t")
    order = files.run(ranked, 2)
    assert order == {"7": ["d1", "d3"]}  # by score; of equal ones, the better rank
    read = files.three(corpus, topics, qrels, order)
    assert read == Collection(
        {"7": "what is ü"},
        {"d1": "one text", "d2": "title text", "d3": "third"},
        {"7": {"d1": 1, "d2": -1}},
    )


def test_with_a_run_only_the_texts_that_are_needed_are_kept(tmp_path: Path):
    folder, qrels = write_beir(tmp_path), write_lines(tmp_path / "few", "1 0 a 1")
    three = folder / "corpus.jsonl", folder / "queries.jsonl", qrels
    assert set(files.three(*three, {"1": ["e"]}).texts) == {"a", "e"}
    assert set(files.three(*three, None).texts) == set(TEXTS)


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "again"}', r"corpus.jsonl:7: the id 'a' is there"),
        ("corpus.jsonl", '{"text": "no id"}', r"corpus.jsonl:7: _id: a text is needed"),
        ("corpus.jsonl", '{"_id": "g"}', r"corpus.jsonl:7: text: a text in quotes is needed"),
        ("corpus.jsonl", '{"_id": "g", "text": "\\ud800"}', r":7: the text is not valid Unicode"),
        ("corpus.jsonl", "no JSON", r"corpus.jsonl:7: it is not JSON"),
        ("queries.jsonl", '{"_id": "1", "text": "again"}', r"queries.jsonl:4: the id '1' is"),
        ("qrels/test.tsv", "1\ta\t1.5", r"test.tsv:7: the grade '1.5' is no whole number"),
        ("qrels/test.tsv", "1\ta\t1", r"test.tsv:7: document 'a' has another grade above"),
        ("qrels/test.tsv", "1\ta", r"test.tsv:7: query, document and grade are needed"),
        ("qrels/test.tsv", "9\ta\t1", r"test.tsv: query '9' is not among the queries"),
        ("qrels/test.tsv", "1\tz\t1", r"test.tsv: document 'z', judged for query '1', is not in"),
    ],
)
def test_what_is_wrong_in_a_folder_is_told(tmp_path: Path, name: str, line: str, words: str):
    with (write_beir(tmp_path) / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match=words):
        files.folder(tmp_path, None, None)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_file_that_is_empty_or_not_there_is_told(tmp_path: Path, name: str):
    path = write_beir(tmp_path) / name
    path.write_text("\n")
    with pytest.raises(UsageError, match=r"is empty|has no judgements"):
        files.folder(tmp_path, "test", None)
    path.unlink()
    with pytest.raises(UsageError, match=r"cannot be read|has no qrels"):
        files.folder(tmp_path, "test", None)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "--run: .* is empty"),
        (["1 Q0 a 1 0.5"], "run:1: a run's line is: query Q0 document rank score tag"),
        (["1 Q0 a 1 0.5 t", "1 Q0 a 2 0.4 t"], "run:2: document 'a' is there twice"),
        (["1 Q0 a 1 high t"], "run:1: rank and score must be numbers, not 1 high"),
        (["1 Q0 a 1 nan t"], "rank and score must be numbers, not 1 nan"),
        (["1 Q0 nowhere 1 0.5 t"], "--run: document 'nowhere' of query '1' is not in"),
    ],
)
def test_what_is_wrong_in_a_run_is_told(tmp_path: Path, lines: list[str], words: str):
    path = write_lines(tmp_path / "run", *lines)
    with pytest.raises(UsageError, match=words):
        files.folder(write_beir(tmp_path), None, files.run(path, 10))


def test_bytes_that_are_no_text_are_told(tmp_path: Path):
    (tmp_path / "q.tsv").write_bytes(b"1\tfine\n2\t\xff\n")
    with pytest.raises(UsageError, match=r"q.tsv:2: it is not UTF-8"):
        files.texts(tmp_path / "q.tsv")


def test_passages_of_ones_own_are_read(tmp_path: Path):
    path = write_lines(
        tmp_path / "own.jsonl",
        {"query": "x", "passages": ["p", "q", "r"], "relevant": [2, 0]},
        {"query": "y", "passages": ["p", "p"], "labels": [True, 0.0]},
        {"query": "z", "passages": ["s"], "grades": [3]},
        {"query": "x", "passage": "t", "label": 2},
    )
    read = own.read(path)
    assert read.queries == {"1": "x", "2": "y", "3": "z"}
    assert read.own == {"1": ["1.0", "1.1", "1.2", "1.3"], "2": ["2.0", "2.1"], "3": ["3.0"]}
    assert [read.texts[id] for id in read.own["1"]] == ["p", "q", "r", "t"]
    assert [list(of.values()) for of in read.grades.values()] == [[1, 0, 1, 2], [1, 0], [3]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"passages": ["p"], "labels": [1]}, "query: missing: a line is"),
        ({"query": 1, "passages": ["p"], "labels": [1]}, "query: a text in quotes is needed"),
        ({"query": "x", "passages": [], "labels": []}, "passages: it is empty"),
        ({"query": "x", "passages": "p", "labels": [1]}, "passages: a list is needed"),
        ({"query": "x", "passages": ["p"]}, "relevant: missing: a line is"),
        ({"query": "x", "passages": ["p"], "labels": [1], "relevant": []}, "keep one of them"),
        ({"query": "x", "passages": ["p"], "labels": [1, 0]}, "labels: 2 for 1 passages"),
        ({"query": "x", "passages": ["p"], "grades": [0.5]}, r"grades\[0\]: the grade 0.5 is no"),
        ({"query": "x", "passages": ["p"], "grades": ["1"]}, r"grades\[0\]: the grade '1' is no"),
        ({"query": "x", "passages": ["p"], "relevant": [1]}, r"relevant\[0\]: 1 is no index"),
        ({"query": "x", "passages": ["p"], "relevant": [-1]}, r"relevant\[0\]: -1 is no index"),
        ({"query": "x", "passage": "p"}, "label: missing: a line is"),
    ],
)
def test_what_is_wrong_in_a_line_of_ones_own_is_told(
    tmp_path: Path, line: dict[str, object], words: str
):
    with pytest.raises(UsageError, match=rf"own.jsonl:1: .*{words}"):
        own.read(write_lines(tmp_path / "own.jsonl", line))


def test_queries_without_a_relevant_document_are_left_out():
    grades = {"1": {"a": 2, "b": 1}, "2": {"d": 1}, "3": {"f": 0}}
    assert answerable(grades, 1) == ["1", "2"]
    assert answerable(grades, 2) == ["1"]
    with pytest.raises(UsageError, match="no query has a relevant document, of a grade of 3"):
        answerable(grades, 3)


def test_a_sample_is_of_its_seed_and_in_order():
    ids = [str(number) for number in range(100)]
    drawn = sample(ids, 10, 1)
    assert len(set(drawn)) == 10 and drawn == sorted(drawn, key=int)
    assert drawn == sample(ids, 10, 1) != sample(ids, 10, 2)
    assert sample(ids, None, 1) == sample(ids, 100, 1) == ids


# --- the first stage


def test_bm25_finds_words_by_their_stems_and_nothing_else():
    texts = {"a": "the weather", "b": "Apples and pears", "c": "an apple, an apple", "d": ""}
    queries = {"1": "What of the apple?", "2": "the", "3": "zebra"}
    found = first_stage.bm25(Collection(queries, texts, {}), list(queries), 10)
    assert found == {"1": ["c", "b"], "2": [], "3": []}
    assert first_stage.bm25(Collection(queries, texts, {}), ["1"], 1) == {"1": ["c"]}


def test_bm25_of_texts_without_a_word():
    assert first_stage.bm25(Collection({"1": "x"}, {"a": "the"}, {}), ["1"], 9) == {"1": []}


def test_bm25_ranks_all_the_passages_of_ones_own():
    mine = {"1": ["1.0", "1.1", "1.2"], "2": ["2.0"]}
    texts = {"1.0": "stones", "1.1": "sand", "1.2": "an apple", "2.0": "apple apple"}
    collection = Collection({"1": "apple", "2": "pear"}, texts, {}, mine)
    assert first_stage.bm25(collection, ["1", "2"], 9) == {
        "1": ["1.2", "1.0", "1.1"],  # equal ones in their order
        "2": ["2.0"],
    }
    assert first_stage.given(collection, ["1"], 2) == {"1": ["1.0", "1.1"]}


# --- whole runs


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that ranks by shared words, one that does the opposite, and a cascade of them."""
    work = tmp_path_factory.mktemp("two")
    good, bad = {"FAKE_SCORES": "shared"}, {"FAKE_SCORES": "unshared"}
    top = "  both: {cascade: {first: bad, then: good, keep: 2}}\n"
    with start(work, top=top, good=good, bad=bad) as server:
        yield server.until_ready()


def test_a_whole_run(two_models: Server, tmp_path: Path):
    saved = tmp_path / "runs"
    done = command(
        write_beir(tmp_path / "tiny"),
        *("--url", two_models.url, "--run", write_run(tmp_path / "worst.run")),
        *("--depth", 3, "--save-run", saved),
    )
    assert done.returncode == 0, done.stderr
    quality, cost = json.loads(done.stdout.splitlines()[-1])["outcomes"]
    main = [row for row in rows_of(quality) if row["measure"] == "nDCG@10"]
    means = {row["model"]: float(row["mean"]) for row in main}
    worst = (1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    second = 1 / np.log2(3)
    assert means == {
        "first stage (worst.run)": round((worst + second) / 2, 4),
        "good": 1.0,
        "bad": round((worst + second) / 2, 4),
        # Of the first query it keeps c and b, and ranks them right; a comes behind them.
        "both": round((2 / (2 + second) + 1) / 2, 4),
    }
    assert main[1]["to first stage"] == f"{1 - (worst + second) / 2:+.4f}"
    models = [row["model"] for row in rows_of(cost)]
    assert models == ["first stage (worst.run)", "good", "bad", "both"]  # each by one name
    assert rows_of(cost)[1]["pairs"] == "5" and rows_of(cost)[1]["tokens"] != "–"
    assert "1 of 3 queries have no relevant document" in done.stdout
    lines = (saved / "reranked-good.run").read_text().splitlines()
    assert lines[0] == "1 Q0 a 1 3 good" and len(lines) == 5
    assert sorted(file.name for file in saved.iterdir()) == [
        *("first-stage.run", "reranked-bad.run", "reranked-both.run", "reranked-good.run"),
    ]
    assert [chart["kind"] for chart in (*quality["charts"], *cost["charts"])] == ["bars", "lines"]


def test_a_saved_run_gives_the_same_figures(two_models: Server, tmp_path: Path):
    tiny, saved = write_beir(tmp_path / "tiny"), tmp_path / "runs"
    common = ("--url", two_models.url, "--model", "good")
    first, _ = run(parsed(tiny, *common, "--save-run", saved))
    again, _ = run(parsed(tiny, *common, "--run", saved / "reranked-good.run"))
    means = [[row["mean"] for row in rows_of(found)] for found in (first, again)]
    assert means[0][1::2] == means[1][0::2]  # what was the model's is now the first stage's
    qrels = ir_measures.read_trec_qrels("1 0 a 2\n1 0 b 1\n2 0 d 1\n")
    theirs = ir_measures.read_trec_run((saved / "reranked-good.run").read_text())
    value = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, theirs)
    assert f"{value[ir_measures.nDCG @ 10]:.4f}" == means[0][1]


def test_passages_of_ones_own_are_ranked(two_models: Server, tmp_path: Path):
    path = write_lines(
        tmp_path / "own.jsonl",
        {"query": "red apple", "passages": ["stones", "red sand", "red apple"], "relevant": [2]},
        {"query": "blue sea", "passages": ["sand", "blue sea"], "labels": [0, 1]},
    )
    quality, _ = run(parsed(path, "--url", two_models.url, "--model", "good", "--as-given"))
    reciprocal = [row["mean"] for row in rows_of(quality) if row["measure"] == "RR@10"]
    assert reciprocal == ["0.4167", "1.0000"]


def test_a_busy_server_is_asked_again_no_sooner_than_it_says(tmp_path: Path):
    busy = [refusing(429, retry_after="1"), refusing(503, retry_after="0")]
    with Scripted(busy) as server:
        _, cost = run(parsed(write_beir(tmp_path), "--url", server.url, "--clients", 1))
    assert len(server.bodies) == 4
    assert float(rows_of(cost)[1]["seconds"]) >= 1


def test_a_model_that_fails_ends_the_run_and_nothing_is_written(tmp_path: Path):
    saved = tmp_path / "runs"
    with (
        Scripted([refusing(500, "no luck")]) as server,
        pytest.raises(MeasureError, match=f"{server.url}: 500: no luck"),
    ):
        run(parsed(write_beir(tmp_path / "tiny"), "--url", server.url, "--save-run", saved))
    assert not list(saved.iterdir())


@pytest.mark.parametrize(
    ("entries", "options", "kind", "words"),
    [
        ([], [], UsageError, "lists no models: name them with --model"),
        ([MODEL], ["--model", "other"], UsageError, "--model other: .* it has scripted"),
        ([{**MODEL, "ready": False}], [], MeasureError, "has no model that is ready"),
    ],
)
def test_models_that_are_not_there_are_told(
    tmp_path: Path,
    entries: list[dict[str, object]],
    options: list[str],
    kind: type[Exception],
    words: str,
):
    with Scripted(models=entries) as server, pytest.raises(kind, match=words):
        run(parsed(write_beir(tmp_path), "--url", server.url, *options))


def test_the_key_is_sent(keyed_server: Server, tmp_path: Path):
    tiny, keys = write_beir(tmp_path / "tiny"), write_lines(tmp_path / "keys", "secret")
    with pytest.raises(MeasureError, match="401"):
        run(parsed(tiny, "--url", keyed_server.url))
    assert len(run(parsed(tiny, "--url", keyed_server.url, "--api-key-file", keys))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--corpus and --topics and --qrels missing: name a folder or a file"),
        (["--corpus", "c", "--qrels", "q"], "--topics missing"),
        (["{tiny}", "--qrels", "q"], "--qrels does not go with a folder"),
        (["{tiny}", "--as-given"], "--as-given does not go with a folder"),
        (["{own}", "--run", "r"], "--run does not go with passages of one's own"),
        (["{tiny}", "--split", "dev"], "has no qrels/dev.tsv: --split may be test"),
        (["{tiny}", "--save-run", "{own}"], "--save-run: .* is not a folder"),
        (["{tiny}", "--api-key-file", "/nowhere"], "--api-key-file: /nowhere cannot be read"),
        (["/nowhere"], "/nowhere cannot be read: No such file"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, arguments: list[str], words: str):
    mine = {"query": "x", "passages": ["p"], "relevant": [0]}
    places = {"tiny": write_beir(tmp_path / "tiny")}
    places["own"] = write_lines(tmp_path / "own.jsonl", mine)
    with pytest.raises(UsageError, match=words):
        run(parsed(*(word.format(**places) for word in arguments)))


def test_a_mistake_is_one_line_on_standard_error(tmp_path: Path):
    done = command(tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/nowhere cannot be read: No such file or directory\n"


# --- the real model on a real collection


def collections() -> Path:
    """Where real ones are: $RERANK_COLLECTIONS, else `shared/data` beside the checkout."""
    return Path(os.environ.get("RERANK_COLLECTIONS") or ROOT.parent / "shared" / "data")


@pytest.mark.vllm
def test_the_real_model_on_a_real_collection(minilm_server: Server):
    folder = collections() / "cranfield"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: say with RERANK_COLLECTIONS where collections are")
    given = ("--queries", 10, "--depth", 12, "--seed", 0)
    quality, cost = run(parsed(folder, "--url", minilm_server.url, *given))
    means = [float(row["mean"]) for row in rows_of(quality) if row["measure"] == "nDCG@10"]
    # The same came of the model's embeddings by `transformers`; no two of its values are so near
    # each other that the last digits could swap them.
    assert means == pytest.approx([0.3852, 0.4235], abs=0.001)
    assert rows_of(cost)[1]["pairs"] == "120"
