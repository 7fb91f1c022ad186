"""A server against reference scores: the comparison, the files, and the command line."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from clients import reference as files
from clients.ask import NotAsked, http_fetch, observe, read_scores
from clients.compare import (
    PLAIN,
    TOLERANCES,
    Example,
    Observed,
    Reference,
    Scored,
    compare,
    find_name,
    tolerance_for,
)
from clients.examples import EIGHT_PASSAGES, FOUR_PASSAGES, QUERY
from clients.reference import BadReference, path_for, read_reference, write_reference
from clients.report import pad, shorten, width
from clients.verify import api_key, main, record, verify
from tests.harness import ROOT, Server, write_config

SCORES = [0.9, 0.1, 0.5]
OTHERS = ("/v1/rerank", "/v2/rerank", "/score")
REFERENCE = Reference("fake", "float32", "by hand", [Example("q", ["a", "b", "c"], SCORES)])


def observed(
    scores: Sequence[float] = SCORES,
    by_path: Mapping[str, Sequence[float]] | None = None,
    alone: Sequence[float] | None = None,
    dtype: str | None = None,
) -> Observed:
    """What a server says that gives `scores` everywhere, but for what the others say."""
    everywhere = {path: scores for path in (PLAIN, *OTHERS)}
    scored = Scored({**everywhere, **(by_path or {})}, scores if alone is None else alone)
    return Observed(["fake"], dtype, [scored])


def failed(seen: Observed, reference: Reference = REFERENCE, **options: float) -> set[str]:
    """The names of the checks that do not hold."""
    report = compare(reference, seen, **options)  # type: ignore[arg-type]
    names = {check.name for check in report.checks if not check.ok}
    assert report.ok == (not names) == (not report.failures)
    assert ("FAIL" in report.table()) == bool(names)
    json.dumps(report.as_json(), allow_nan=False)
    return names


def in_dtype(dtype: str) -> Reference:
    return replace(REFERENCE, dtype=dtype)


# The comparison


def test_equal_scores_pass_all_checks():
    assert failed(observed()) == set()
    names = [check.name for check in compare(REFERENCE, observed()).checks]
    assert names == ["model", "scores", "order", "dialects", "alone", "range"]


def test_a_wrong_score_fails():
    assert failed(observed([0.9, 0.1, 0.50002])) == {"scores"}
    assert failed(observed([0.9, 0.1, 0.500009])) == set()
    [line] = compare(REFERENCE, observed([0.9, 0.1, 0.6])).failures
    assert line == "scores: example 1, 'c': expected 0.5, got 0.6"


def test_a_wrong_order_fails_where_the_scores_are_within_the_tolerance():
    close = replace(REFERENCE, examples=[Example("q", ["a", "b", "c"], [0.9, 0.60, 0.65])])
    swapped = observed([0.9, 0.65, 0.60])
    assert failed(swapped, close) == {"scores", "order"}
    assert failed(swapped, close, tolerance=0.06) == set(), "the two may err that far"
    assert "order" in failed(swapped, close, tolerance=0.024)


def test_an_order_that_became_a_tie_fails():
    assert "order" in failed(observed([0.9, 0.5, 0.5]), in_dtype("bfloat16"))


@pytest.mark.parametrize("path", OTHERS)
def test_a_dialect_that_disagrees_fails(path: str):
    last_digit = math.nextafter(0.5, 1)
    seen = observed(by_path={path: [0.9, 0.1, last_digit]})
    assert failed(seen) == {"dialects"}, "float32 agrees to the last digit"
    assert failed(seen, in_dtype("float16")) == set()
    far = observed(by_path={path: [0.9, 0.1, 0.51]})
    assert failed(far, in_dtype("float16")) == {"dialects"}
    assert path in compare(REFERENCE, far).failures[0]


def test_a_passage_that_scores_otherwise_alone_fails():
    assert failed(observed(alone=[0.9, 0.1, 0.500002])) == {"alone"}
    assert failed(observed(alone=[0.9, 0.1, 0.5000009])) == set()
    assert failed(observed(alone=[0.9, 0.1, 0.507]), in_dtype("float16")) == set()
    assert failed(observed(alone=[0.9, 0.1, 0.509]), in_dtype("float16")) == {"alone"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.0001, -0.0001])
def test_a_score_that_is_none_fails(bad: float):
    assert "range" in failed(observed([bad, 0.1, 0.5]))
    assert "range" in failed(observed(alone=[0.9, 0.1, bad]))
    assert "range" in failed(observed(by_path={"/score": [0.9, bad, 0.5]}))


def test_nan_passes_nothing():
    nothing = observed([math.nan] * 3)
    assert failed(nothing, tolerance=1.0) == {"scores", "dialects", "alone", "range"}
    assert "order" in failed(nothing)


def test_another_model_fails_before_its_scores_are_looked_at():
    report = compare(REFERENCE, Observed(["other", "org/other"]))
    assert report.failures == ["model: fake is not served here; served: other, org/other"]
    assert not report.rows
    assert failed(replace(observed(), served=["other"])) == {"model"}


def test_observations_of_other_examples_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="2 scores for 3 passages"):
        compare(REFERENCE, observed([0.9, 0.1]))
    with pytest.raises(ValueError, match="zip"):
        compare(REFERENCE, Observed(["fake"]))


@pytest.mark.parametrize(
    ("reference", "served", "same_as"),
    [
        ("float16", "float32", "float16"),
        ("float16", "bfloat16", "bfloat16"),
        ("bfloat16", "float16", "bfloat16"),
        ("float32", "half", "float16"),
        ("float32", "torch.bfloat16", "bfloat16"),
        ("float16", None, "float16"),
        ("float16", "auto", "float16"),
        ("float32", "float8", "float32"),
    ],
)
def test_the_larger_tolerance_of_two_dtypes(reference: str, served: str | None, same_as: str):
    assert tolerance_for(reference, served) == TOLERANCES[same_as]


def test_what_the_server_computes_in_says_how_exactly_it_must_agree_with_itself():
    off = {"/score": [0.9, 0.1, 0.5000001]}
    assert failed(observed(by_path=off, dtype="float32"), in_dtype("float16")) == {"dialects"}
    assert failed(observed(by_path=off, dtype="float16"), in_dtype("float32")) == set()


@pytest.mark.parametrize(
    ("wanted", "served", "found"),
    [
        ("MiniLM", ["minilm"], "minilm"),
        ("baai/BGE", ["x", "BAAI/bge"], "BAAI/bge"),
        ("org/bge", ["bge"], "bge"),
        ("bge", ["BAAI/bge", "bge"], "bge"),
        ("bge", ["BAAI/bge"], "BAAI/bge"),
        ("org/bge", ["BAAI/bge"], None),
        ("bge", ["bge-m3"], None),
        ("bge", [], None),
    ],
)
def test_finding_a_name(wanted: str, served: list[str], found: str | None):
    assert find_name(wanted, served) == found


def test_the_table_is_aligned_whatever_the_texts_are():
    texts = ["short", "深度学习" * 30, "line\nbreak\x1b[31m", "e\u0301" * 60, ""]
    example = Example("q\tr", texts, [0.5] * 5)
    seen = Observed(["fake"], None, [Scored(dict.fromkeys((PLAIN, *OTHERS), [0.5] * 5), [0.5] * 5)])
    report = compare(replace(REFERENCE, examples=[example]), seen)
    rows = [line for line in report.table().splitlines() if line.endswith("PASS")]
    assert len(rows) == 5 and len({width(row) for row in rows}) == 1
    assert "\x1b" not in report.table()
    assert width(shorten("深" * 100, 48)) <= 48 and width(pad("深", 10)) == 10


# Files


def test_the_published_scores_are_those_of_the_examples():
    published = read_reference(path_for("BAAI/BGE-reranker-base"))
    assert published.model == "bge-reranker-base" and published.dtype == "float16"
    asked = [(example.query, tuple(example.passages)) for example in published.examples]
    assert asked == [(QUERY, FOUR_PASSAGES), (QUERY, EIGHT_PASSAGES)]


def test_every_shipped_reference_is_of_a_shipped_config():
    for path in files.FOLDER.glob("*.json"):
        assert read_reference(path).model == path.stem
        assert (ROOT / "configs" / f"{path.stem}.yaml").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [("m", "m"), ("org/M", "M"), ("./folder/", "folder"), ("my/m.yaml", "m"), ("a.5", "a.5")],
)
def test_the_file_of_a_model(tmp_path: Path, model: str, name: str):
    assert path_for(model, tmp_path) == tmp_path / f"{name}.json"
    there = tmp_path / f"{name.upper()}.json"
    there.touch()
    assert path_for(model, tmp_path) == there


GOOD = {"query": "q", "passages": ["a"], "scores": [0.5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model must be a string"),
        ({"model": ""}, "model is empty"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16"),
        ({"source": 1}, "source must be a string"),
        ({"examples": []}, "examples must be a list with one"),
        ({"examples": [GOOD, 1]}, r"examples\[1\] must be an object"),
        ({"examples": [{**GOOD, "query": 1}]}, r"examples\[0\]: query must be a string"),
        ({"examples": [{**GOOD, "passages": []}]}, r"examples\[0\]: passages must be a list"),
        ({"examples": [{**GOOD, "passages": [1]}]}, r"passages\[0\] must be a string"),
        ({"examples": [{**GOOD, "query": "\ud800"}]}, "half of a surrogate pair"),
        ({"examples": [{**GOOD, "scores": []}]}, "scores must be a list with one for each"),
        ({"examples": [{**GOOD, "scores": [True]}]}, r"scores\[0\] must be a number from 0 to 1"),
        ({"examples": [{**GOOD, "scores": [1.5]}]}, r"scores\[0\] must be a number from 0 to 1"),
        ({"examples": [{**GOOD, "scores": [math.nan]}]}, r"scores\[0\] must be a number"),
    ],
)
def test_a_mistake_in_a_reference_names_file_and_field(
    tmp_path: Path, change: dict[str, object], message: str
):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"model": "m", "dtype": "half", "examples": [GOOD]} | change))
    with pytest.raises(BadReference, match=message) as caught:
        read_reference(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "\xff"])
def test_a_file_that_is_no_reference(tmp_path: Path, text: str):
    path = tmp_path / "m.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadReference, match=r"m\.json"):
        read_reference(path)
    with pytest.raises(BadReference, match=r"m\.json"):
        files.read_questions(path)


def test_examples_of_ones_own_name_the_line_of_a_mistake(tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"query": "q", "passages": ["a\u2028b"]}\n\n{"query": "q"}\n')
    with pytest.raises(BadReference, match=r"own\.jsonl:3: passages must be a list"):
        files.read_questions(path)
    path.write_text('{"query": "q", "passages": ["a\u2028b"]}\n')
    assert files.read_questions(path) == [("q", ["a\u2028b"])]


def test_a_reference_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "new" / "m.json"
    write_reference(path, REFERENCE)
    assert read_reference(path) == REFERENCE
    before = path.read_bytes()
    with pytest.raises(BadReference, match="pass --force"):
        write_reference(path, in_dtype("float16"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BadReference, match=r"cannot be written: No space left"):
            write_reference(path, in_dtype("float16"), force=True)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    write_reference(path, in_dtype("float16"), force=True)
    assert read_reference(path).dtype == "float16" and list(path.parent.iterdir()) == [path]


def test_the_key_is_read_from_the_environment_or_a_file(tmp_path: Path):
    path = tmp_path / "keys"
    assert api_key(None, {}) is None and api_key(None, {"RERANK_API_KEY": " "}) is None
    assert api_key(None, {"RERANK_API_KEY": "k\n"}) == "k"
    path.write_text(f"# ours\nsha256:{'0' * 64}\n\nfirst\nsecond\n")
    assert api_key(path, {"RERANK_API_KEY": "k"}) == "first"
    for line, key in (
        ("alice first", "first"),
        ("alice first== pairs=5/day  requests=1/second", "first=="),
        ("first requests=1/second", "first"),
        ("alice sha256:0\nbob metrics only=metrics\nfirst", "first"),
    ):
        path.write_text(line)
        assert api_key(path, {}) == key
    assert api_key(None, {"RERANK_API_KEY": "first second"}) == "first second"
    for text, message in (
        ("# none\n", "has no key"),
        ("sha256:0\n", "has no key"),
        ("\x07k", "no"),
    ):
        path.write_text(text)
        with pytest.raises(BadReference, match=message):
            api_key(path, {})
    with pytest.raises(BadReference, match="cannot be read"):
        api_key(tmp_path / "none", {})


# Asking


class Fake:
    """A server as a function: its `scores`, by every API, and the paths that were asked."""

    def __init__(self, scores: Sequence[float] = SCORES, **entry: object) -> None:
        self.scores = dict(zip("abc", scores, strict=True))
        self.entry = {"id": "org/Fake", **entry}
        self.asked: list[str] = []

    def __call__(self, path: str, body: object) -> object:
        self.asked.append(path)
        if body is None:
            return {"data": [self.entry]}
        assert isinstance(body, dict) and body["model"] == "org/Fake"
        texts = body.get("passages") or body.get("documents") or body["text_2"]
        scores = [self.scores[text] for text in texts]
        if path == PLAIN:
            return scores
        name = "score" if path == "/score" else "relevance_score"
        items = [{"index": index, name: score} for index, score in enumerate(scores)]
        return {"data" if path == "/score" else "results": items[::-1]}


def test_verify_asks_each_api_and_each_passage_alone():
    fake = Fake(dtype="float16")
    report = verify("", REFERENCE, fetch=fake)
    assert report.ok and report.dtype == "float16" and report.tolerance == TOLERANCES["float16"]
    assert sorted(fake.asked) == sorted(["/v1/models", PLAIN, *OTHERS, PLAIN, PLAIN, PLAIN])
    assert not verify("", REFERENCE, fetch=Fake([0.9, 0.1, 0.6]), tolerance=0.01).ok
    assert verify("", REFERENCE, fetch=Fake([0.9, 0.1, 0.6]), tolerance=0.2).ok


def test_another_model_is_not_asked_for_scores():
    fake = Fake()
    assert not verify("", REFERENCE, model="org/other", fetch=fake).ok
    assert fake.asked == ["/v1/models"]


def test_record_says_where_the_scores_are_from():
    questions = [("q", ["a", "b", "c"])]
    reference, report = record(
        "", "fake", questions, fetch=Fake(dtype="bfloat16", revision="0123abc")
    )
    assert report.ok and reference == replace(
        in_dtype("bfloat16"),
        source="recorded with rerank-serve from org/Fake at revision 0123abc",
    )
    with pytest.raises(BadReference, match="pass --dtype"):
        record("http://x", "fake", questions, fetch=Fake(dtype="auto"))
    _, bad = record("", "fake", questions, fetch=Fake([math.nan, 0, 0]), dtype="float32")
    assert not bad.ok
    with pytest.raises(BadReference, match="serves no 'other': name one of org/Fake"):
        record("", "other", questions, fetch=Fake())


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (PLAIN, [0.1]),
        (PLAIN, [0.1, 0.2, 0.3]),
        (PLAIN, [0.1, "0.2"]),
        (PLAIN, {"results": []}),
        (PLAIN, None),
        ("/score", {"data": [{"index": 0, "score": 0.1}, {"index": 0, "score": 0.1}]}),
        ("/score", {"data": [{"index": 0}, {"index": 1}]}),
        ("/score", {}),
        ("/v1/rerank", [1, 2]),
        ("/v2/rerank", {"results": [{"index": [], "relevance_score": 1}] * 2}),
    ],
)
def test_an_answer_that_is_no_scores(path: str, answer: object):
    with pytest.raises(NotAsked, match=f"{path} answers not one score for each of 2 passages"):
        read_scores(path, answer, 2)


@pytest.mark.parametrize("answer", [None, {}, {"data": None}, {"data": [1]}, {"data": [{}]}, []])
def test_a_server_without_models_is_not_one_of_ours(answer: object):
    with pytest.raises(NotAsked, match="no list of models"):
        observe(lambda path, body: answer, "m", [])


def test_a_null_is_no_score():
    assert math.isnan(read_scores(PLAIN, [None], 1)[0])


# The command line, over the real gateway


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clients.verify", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done


def test_record_then_verify_then_a_tampered_reference(fake_server: Server, tmp_path: Path):
    path = tmp_path / "fake.json"
    common = ("org/FAKE", "--url", fake_server.url, "--reference", str(path), "--json")
    recorded = run(*common, "--record", "--dtype", "float32")
    assert recorded.returncode == 0, recorded.stderr
    again = run(*common, "--record", "--dtype", "float32")
    assert again.returncode == 2 and "pass --force" in again.stderr
    passed = run(*common)
    assert passed.returncode == 0, passed.stdout
    report = json.loads(passed.stdout.splitlines()[-1])
    assert report["ok"] and len(report["rows"]) == 12 and len(report["checks"]) == 6

    reference = json.loads(path.read_text())
    reference["examples"][1]["scores"][0] = 0.123
    path.write_text(json.dumps(reference))
    tampered = run(*common)
    assert tampered.returncode == 1 and "FAIL  scores: example 2" in tampered.stdout
    assert not json.loads(tampered.stdout.splitlines()[-1])["ok"]
    assert run(*common, "--record", "--force", "--dtype", "float32").returncode == 0
    assert run(*common).returncode == 0


def test_scores_that_do_not_hold_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path, own = tmp_path / "fake.json", tmp_path / "own.jsonl"
    own.write_text('{"query": "q", "passages": ["a", "b", "c"]}')
    bad = Fake([math.nan, 0.1, 0.5], dtype="float32")
    monkeypatch.setattr("clients.verify.http_fetch", lambda url, key, fingerprint: bad)
    command = ["fake", "--record", "--json", "--reference", str(path), "--examples", str(own)]
    assert main(command) == 1 and not path.exists()
    printed = capsys.readouterr().out
    assert "nothing is recorded" in printed
    assert not json.loads(printed.splitlines()[-1])["recorded"]


def test_examples_of_ones_own(fake_server: Server, tmp_path: Path):
    path, own = tmp_path / "fake.json", tmp_path / "own.jsonl"
    own.write_text(json.dumps({"query": "水果?", "passages": ["苹果", "hammer", "x"]}) + "\n")
    common = ("fake", "--url", fake_server.url, "--reference", str(path))
    done = run(*common, "--record", "--dtype", "float16", "--examples", str(own))
    assert done.returncode == 0, done.stderr
    [example] = read_reference(path).examples
    assert example.scores == fake_server.rerank("水果?", ["苹果", "hammer", "x"])
    assert run(*common, env={"PYTHONIOENCODING": "ascii"}).returncode == 0


def test_a_server_with_a_key(tmp_path: Path):
    key = "schlüssel-7"
    with Server(write_config(tmp_path), tmp_path, env={"RERANK_API_KEY": key}) as server:
        server.until_ready()
        path, keys = tmp_path / "fake.json", tmp_path / "keys"
        keys.write_text(f"{key}\n")
        common = ("fake", "--url", server.url, "--reference", str(path))
        nobody = {"RERANK_API_KEY": ""}
        write_reference(path, replace(REFERENCE, examples=[Example("q", ["a"], [0.5])]))
        refused = run(*common, env=nobody)
        assert refused.returncode == 3 and "RERANK_API_KEY" in refused.stderr
        assert run(*common, env={"RERANK_API_KEY": "wrong"}).returncode == 3
        record = (*common, "--record", "--force", "--dtype", "float32")
        assert run(*record, env={"RERANK_API_KEY": key}).returncode == 0
        by_file = run(*common, "--api-key-file", str(keys), env=nobody)
        assert by_file.returncode == 0 and key not in by_file.stdout
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password mine\n")
        netrc.chmod(0o600)
        assert run(*common, env={"RERANK_API_KEY": key, "NETRC": str(netrc)}).returncode == 0


def test_a_server_that_cannot_be_asked(fake_server: Server, tmp_path: Path):
    gone = run("minilm", "--url", "http://127.0.0.1:9", "--json")
    assert gone.returncode == 3 and "start it with `make serve`" in gone.stderr
    assert json.loads(gone.stdout.splitlines()[-1])["status"] == 3
    path = tmp_path / "fake.json"
    common = ("fake", "--url", fake_server.url, "--reference", str(path))
    for query, status in (("!nan", 502), ("!500", 503), ("!503", 503)):
        write_reference(
            path, replace(REFERENCE, examples=[Example(query, ["a"], [0.5])]), force=True
        )
        done = run(*common)
        assert done.returncode == 3 and f"answers {status}" in done.stderr, done.stderr
    with pytest.raises(NotAsked, match="answers 404"):
        http_fetch(fake_server.url + "/elsewhere")("/v1/models", None)
    with pytest.raises(NotAsked, match="gave no answer in time"):
        http_fetch(fake_server.url, timeout_s=0.3)("/rerank", {"query": "!hang", "passages": ["a"]})


def test_another_model_exits_1(fake_server: Server):
    done = run("minilm", "--url", fake_server.url)
    assert done.returncode == 1 and "minilm is not served here; served: fake" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody/has-this"], "has-this.json is not there: record it"),
        (["other", "--reference", "configs/reference/minilm.json"], "model is 'minilm'"),
        (["minilm", "--url", "localhost:8000"], "must begin with http"),
        (["minilm", "--tolerance", "nan"], "must be a number from 0 to 1"),
        (["minilm", "--force"], "go with --record"),
        (["minilm", "--record", "--tolerance", "1"], "does not go with --record"),
        (["minilm", "--record"], "pass --force"),
        (["/"], "names no model"),
        ([], "MODEL"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr


@pytest.mark.vllm
def test_minilm_gives_the_scores_that_are_shipped(minilm_server: Server):
    done = run("minilm", "--url", minilm_server.url)
    assert done.returncode == 0, done.stdout + done.stderr
