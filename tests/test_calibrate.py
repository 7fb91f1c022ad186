"""The calibration: its mathematics on data whose truth is known, and the whole command."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import calibration, report
from benchmarks.calibrate import main
from benchmarks.calibration import CalibrationError, Fit, Floats, Ints
from benchmarks.labelled import InputError, Pair, read
from benchmarks.raw_values import AskError, RawValues
from tests.fake_vllm import logit
from tests.harness import ROOT, Server, wait_until, write_config

TRUE = Fit(temperature=2.5, bias=-1.0)
PNG = b"\x89PNG\r\n\x1a\n"
IEND = b"IEND\xaeB`\x82"


def draw(seed: int, queries: int = 150, each: int = 20) -> tuple[Floats, Ints, Ints]:
    """Raw values, labels drawn with the true probability, and queries."""
    source = np.random.default_rng(seed)
    raw = source.normal(0, 4, queries * each)
    labels = (source.random(len(raw)) < TRUE.probabilities(raw)).astype(np.int64)
    return raw, labels, np.repeat(np.arange(queries), each)


def lines(raw: Sequence[float], labels: Sequence[int], groups: Sequence[int]) -> list[dict]:
    return [
        {"query": f"query {group}", "passage": f"passage {index}", "label": int(y), "raw": float(x)}
        for index, (x, y, group) in enumerate(zip(raw, labels, groups, strict=True))
    ]


def write(path: Path, objects: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def run(*arguments: object, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.calibrate", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        env={**os.environ, **env},
    )


# --- the fit


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_finds_the_truth(seed: int):
    raw, labels, groups = draw(seed)
    fit = calibration.fit(raw, labels)
    spans = calibration.intervals(raw, labels, groups, seed=seed)
    assert spans.temperature and spans.bias and spans.failed == 0
    for found, true, (low, high) in (
        (fit.temperature, TRUE.temperature, spans.temperature),
        (fit.bias, TRUE.bias, spans.bias),
    ):
        assert low < found < high
        assert abs(found - true) < 3 * (high - low) / (2 * 1.96)  # three standard errors


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(10):
        raw, labels, groups = draw(100 + seed, queries=40)
        span = calibration.intervals(raw, labels, groups, seed=seed).temperature
        assert span is not None
        held += span[0] <= TRUE.temperature <= span[1]
    assert held >= 7  # of 10 at 95 %; 6 or fewer has a probability of 0.1 %


def test_the_fit_has_the_largest_likelihood():
    raw, labels, _ = draw(0)
    fit = calibration.fit(raw, labels)

    def loss(temperature: float, bias: float) -> float:
        other = Fit(temperature, bias).probabilities(raw)
        return calibration.quality(other, labels, raw).log_loss

    best = loss(fit.temperature, fit.bias)
    for step in (0.99, 1.01):
        assert loss(fit.temperature * step, fit.bias) > best
        assert loss(fit.temperature, fit.bias * step) > best


def test_the_unit_of_the_raw_value_does_not_matter():
    raw, labels, _ = draw(0)
    fit = calibration.fit(raw, labels)
    small = calibration.fit(raw / 1000 + 0.5, labels)
    assert small.temperature == pytest.approx(fit.temperature / 1000, rel=1e-6)
    assert small.probabilities(raw / 1000 + 0.5) == pytest.approx(fit.probabilities(raw), abs=1e-6)


def test_a_weight_is_so_many_pairs():
    raw, labels, _ = draw(1, queries=10)
    weights = np.random.default_rng(0).integers(0, 4, len(raw)).astype(np.float64)
    times = weights.astype(np.int64)
    by_weight = calibration.fit(raw, labels, weights)
    by_count = calibration.fit(np.repeat(raw, times), np.repeat(labels, times))
    assert by_weight.temperature == pytest.approx(by_count.temperature, rel=1e-6)
    assert by_weight.bias == pytest.approx(by_count.bias, rel=1e-6)


def test_held_out_queries_are_better_calibrated_and_in_the_same_order():
    raw, labels, groups = draw(0)
    held_out = calibration.held_out(raw, labels, groups, folds=5, seed=0)
    fit = calibration.fit(raw, labels)
    before = calibration.quality(calibration.uncalibrated(raw, "logit"), labels, raw)
    after = calibration.quality(held_out, labels, fit.logits(raw))
    assert after.ece < before.ece / 2
    assert after.brier < before.brier and after.log_loss < before.log_loss
    assert after.auc == before.auc
    calibration.check_order(raw, fit.logits(raw), before, after)
    with pytest.raises(CalibrationError, match="would change the order"):
        calibration.check_order(raw, -raw, before, after)


def test_a_pair_never_meets_the_fit_of_its_own_query():
    raw, labels, groups = draw(2, queries=30)
    first = calibration.held_out(raw, labels, groups, folds=5, seed=0)
    own = groups == 7
    flipped = np.where(own, 1 - labels, labels)
    again = calibration.held_out(raw, flipped, groups, folds=5, seed=0)
    assert (first[own] == again[own]).all() and (first[~own] != again[~own]).any()


@pytest.mark.parametrize(
    ("raw", "labels", "words"),
    [
        ([3.0, 2.0, 2.5, 1.0], [0, 1, 0, 1], "against the labels"),
        ([1.0, 2.0, 2.1, 3.0, 0.5], [1, 0, 1, 0, 1], "against the labels"),
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], "without a mistake"),
        ([1.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], "all raw values are the same"),
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 1, 1], "the same label"),
    ],
)
def test_what_cannot_be_fitted_is_told(raw: list[float], labels: list[int], words: str):
    with pytest.raises(CalibrationError, match=words):
        calibration.fit(np.array(raw), np.array(labels))


# --- the figures


def test_ece_by_hand():
    probabilities = np.array([0.1, 0.3, 0.6, 0.8])
    labels = np.array([0, 1, 1, 0])
    # Two bins: (0.1, 0.3) has mean 0.2 and share 0.5; (0.6, 0.8) mean 0.7 and share 0.5.
    assert calibration.ece(probabilities, labels, 2) == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)
    # Four bins of one: 0.1, 0.7, 0.4 and 0.8 away.
    assert calibration.ece(probabilities, labels, 4) == pytest.approx((0.1 + 0.7 + 0.4 + 0.8) / 4)
    assert calibration.ece(probabilities, labels) == calibration.ece(probabilities, labels, 4)


def test_bins_have_equal_mass():
    source = np.random.default_rng(0)
    found = calibration.bins(source.random(1003) ** 5, source.integers(0, 2, 1003))
    assert len(found) == 10 and {one.pairs for one in found} <= {100, 101}
    means = [one.probability for one in found]
    assert means == sorted(means)


PAIRS = st.lists(
    st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 1)), min_size=1
)


@given(PAIRS, st.randoms())
def test_ece_is_a_share_and_blind_to_the_order_of_pairs(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    values = [
        calibration.ece(np.array([p for p, _ in some]), np.array([y for _, y in some]))
        for some in (pairs, shuffled)
    ]
    assert 0 <= values[0] <= 1 + 1e-12
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    found = calibration.bins(np.array([p for p, _ in pairs]), np.array([y for _, y in pairs]))
    assert sum(one.pairs for one in found) == len(pairs) and len(found) <= 10


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 20)), min_size=1, max_size=20))
def test_perfect_calibration_has_no_error(groups: list[tuple[int, int]]):
    probabilities, labels = [], []
    for eighths, times in groups:  # of eight pairs with p = k/8, k are relevant
        probabilities += [eighths / 8] * 8 * times
        labels += ([1] * eighths + [0] * (8 - eighths)) * times
    assert calibration.ece(np.array(probabilities), np.array(labels)) == pytest.approx(0, abs=1e-12)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    st.floats(1e-3, 1e3),
    st.floats(-100, 100),
)
def test_every_fit_keeps_the_order(raw: list[float], temperature: float, bias: float):
    ordered = np.sort(np.array(raw))
    fit = Fit(temperature, bias)
    assert (np.diff(fit.logits(ordered)) >= 0).all()
    probabilities = fit.probabilities(ordered)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert probabilities[0] == pytest.approx(
        0.5 * (1 + math.tanh(0.5 * (ordered[0] / temperature + bias))), abs=1e-12
    )


def test_uncalibrated_scores_are_the_servers():
    assert calibration.uncalibrated(np.array([-1.0, 0.0, 1.0]), "cosine").tolist() == [0, 0.5, 1]
    assert calibration.uncalibrated(np.array([-800.0, 0.0, 800.0]), "logit").tolist() == [0, 0.5, 1]
    with pytest.raises(CalibrationError, match=r"-3, which is no cosine .* --of logit"):
        calibration.uncalibrated(np.array([0.5, -3.0]), "cosine")


# --- the input

GOOD = {"query": "q", "passage": "p", "label": 1}
LIST = {"query": "q", "passages": ["a", "b"], "labels": [0, 1]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"x\.jsonl:2: not JSON"),
        ("[" * 100_000, r"x\.jsonl:2: not JSON"),
        ("[1]", r"x\.jsonl:2: an object is needed"),
        ({"query": "q", "passage": "p"}, r":2: label: missing"),
        ({"query": "q", "passage": "p", "lable": 1}, r":2: label: missing, is `lable` meant"),
        ({**GOOD, "query": 3}, r":2: query: a text in quotes is needed, not 3"),
        ({**GOOD, "passage": None}, r":2: passage: a text"),
        ({**GOOD, "label": "1"}, r":2: label: 0 or 1, true or false"),
        ({**GOOD, "label": math.nan}, r":2: label: 0 or 1"),
        ({**GOOD, "label": 10**400}, r":2: label: 0 or 1"),
        ({**GOOD, "label": 3}, r":2: label: 3 is neither 0 nor 1: say with --threshold"),
        ({**GOOD, "raw": True}, r":2: raw: a number"),
        ({**GOOD, "raw": math.inf}, r":2: raw: a number"),
        ({**GOOD, "raw": 0.5}, r":1: raw: missing, but x\.jsonl:2 has it: all lines or none"),
        ({**LIST, "labels": [1]}, r":2: labels: 1 for 2 passages"),
        ({**LIST, "labels": 1}, r":2: labels: a list is needed"),
        ({**LIST, "raw": []}, r":2: raw: 0 for 2 passages"),
        ({**LIST, "passages": ["a", 5]}, r":2: passages\[1\]: a text"),
        ({**LIST, "labels": [1, 7]}, r":2: labels\[1\]: 7 is neither"),
        ({**LIST, "raw": [1, "x"]}, r":2: raw\[1\]: a number"),
    ],
)
def test_a_bad_line_is_named(line: object, words: str):
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(InputError, match=words):
        read([json.dumps(GOOD).encode(), text.encode()], "x.jsonl")


def test_bytes_that_are_no_text_are_named():
    with pytest.raises(InputError, match=r"x:1: not JSON .*UTF-8"):
        read([b'{"query": "\xff"}'], "x")


def test_both_forms_blank_lines_and_kinds_of_labels():
    content = [{**GOOD, "label": label} for label in (True, False, 0, 1.0)] * 5 + [LIST] * 2
    encoded = [json.dumps(one).encode() for one in content]
    pairs = read([b"\xef\xbb\xbf" + encoded[0], b"\n", *encoded[1:], b"  \n"], "x")
    assert [pair.relevant for pair in pairs] == [True, False, False, True] * 5 + [False, True] * 2
    assert pairs[-1].passage == "b" and pairs[-1].raw is None


def test_grades_need_a_threshold():
    content = [json.dumps({**GOOD, "label": grade}).encode() for grade in (0, 1, 2, 3)] * 6
    assert [pair.relevant for pair in read(content, "x", threshold=2)] == [0, 0, 1, 1] * 6
    with pytest.raises(InputError, match=r"x:3: label: 2 is neither"):
        read(content, "x")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1] * 9, "18 pairs are too few"),
        ([0] * 30, "0 of 30 pairs are relevant"),
        ([1] * 30 + [0] * 4, "4 of 34 pairs are not relevant, 5 are the least"),
        ([], "0 pairs are too few"),
    ],
)
def test_too_few_pairs(labels: list[int], words: str):
    with pytest.raises(InputError, match=words):
        read([json.dumps({**GOOD, "label": label}).encode() for label in labels], "x")


# --- the files


def test_the_files_are_written_whole_or_not_at_all(tmp_path: Path):
    out = tmp_path / "a" / "b"
    report.write(out, {"x": b"one", "y": b"two"})
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"x": b"one", "y": b"two"}
    with pytest.raises(TypeError):
        report.write(out, {"x": b"new", "y": None})  # type: ignore[dict-item]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"x": b"one", "y": b"two"}


def test_the_snippet_is_yaml_for_any_numbers_and_any_command():
    quality = calibration.Quality(0.1, 0.1, 0.1, 0.9)
    for temperature, bias in ((1e-5, 1e-9), (123456.789, -0.0), (2.0, -3.0)):
        result = report.Result(
            fit=Fit(temperature, bias),
            intervals=calibration.Intervals(None, None, None, 200),
            uncalibrated=quality,
            calibrated=quality,
            of="cosine",
            pairs=20,
            queries=4,
            relevant=5,
            folds=2,
            command=("python", "a\nscore: 5"),
        )
        score = yaml.safe_load(report.snippet(result))["score"]
        assert score == {
            "of": "cosine",
            "temperature": pytest.approx(temperature, rel=1e-5),
            "bias": pytest.approx(bias, rel=1e-5),
        }
        assert isinstance(score["temperature"], float) and isinstance(score["bias"], float)
        assert any("200 of 200 resamples" in warning for warning in report.warnings(result))


# --- the command


def check_out(out: Path, last: dict) -> None:
    """The two files are whole, the same as what was printed, and nothing else is left."""
    assert {path.name for path in out.iterdir()} == {"calibration.yaml", "reliability.png"}
    score = yaml.safe_load((out / "calibration.yaml").read_text())["score"]
    assert score["temperature"] == pytest.approx(last["fit"]["temperature"], rel=1e-5)
    assert score["bias"] == pytest.approx(last["fit"]["bias"], rel=1e-5)
    picture = (out / "reliability.png").read_bytes()
    assert picture.startswith(PNG) and picture.endswith(IEND)


def test_raw_values_in_the_file_need_no_server(tmp_path: Path):
    path = write(tmp_path / "labelled.jsonl", lines(*draw(0, queries=60)))
    out = tmp_path / "out"
    done = run(path, "--url", "http://127.0.0.1:9", "--of", "logit", "--out", out, "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    text = done.stdout.decode()
    last = json.loads(text.splitlines()[-1])
    check_out(out, last)
    assert (out / "calibration.yaml").read_text() in text
    assert last["pairs"] == 1200 and last["queries"] == 60 and last["of"] == "logit"
    low, high = last["intervals"]["widest"]
    assert high - low < 0.2
    low, high = last["intervals"]["temperature"]
    assert low < TRUE.temperature < high
    assert last["calibrated"]["ece"] < last["uncalibrated"]["ece"]
    assert last["calibrated"]["auc"] == last["uncalibrated"]["auc"]
    again = run("-", "--of", "logit", "--out", out, "--seed", 3, stdin=path.read_bytes())
    assert json.loads(again.stdout.splitlines()[-1])["fit"] == last["fit"]
    assert json.loads(again.stdout.splitlines()[-1])["intervals"] == last["intervals"]


def test_an_unsure_fit_is_said(tmp_path: Path):
    path = write(tmp_path / "few.jsonl", lines(*draw(5, queries=8, each=5)))
    done = run(path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        b"warning: the fit is unsure, at worst 0." in done.stderr
        and b"label more queries" in done.stderr
    )
    assert b"note: the raw values are taken for logits" in done.stderr


def test_the_whole_command_over_the_gateway(fake_server: Server, tmp_path: Path):
    source = np.random.default_rng(0)
    content = []
    for number in range(40):
        query, passages = f"query {number}", [f"passage {i} of {number}" for i in range(70)]
        chances = TRUE.probabilities(np.array([logit(query, text) for text in passages]))
        labels = [int(source.random() < chance) for chance in chances]
        content.append({"query": query, "passages": passages, "labels": labels})
    path = write(tmp_path / "labelled.jsonl", content)
    out = tmp_path / "out"
    arguments = (path, "--url", fake_server.url + "/", "--model", "fake", "--out", out)
    done = run(*arguments, RERANK_API_KEY="not needed here")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    check_out(out, last)
    assert b"2800/2800 pairs" in done.stderr
    assert last["fit"]["temperature"] == pytest.approx(TRUE.temperature, rel=0.1)
    assert last["fit"]["bias"] == pytest.approx(TRUE.bias, abs=0.2)
    assert last["calibrated"]["ece"] < last["uncalibrated"]["ece"] / 2

    unknown = run(*arguments[:-2], "--model", "other", "--out", tmp_path / "none")
    assert unknown.returncode == 1 and b"has no model 'other'; it has fake" in unknown.stderr
    bad = write(tmp_path / "bad.jsonl", [{**one, "query": "!400 x"} for one in content])
    refused = run(bad, "--url", fake_server.url, "--out", tmp_path / "none", "--folds", 2)
    assert refused.returncode == 2 and b"all pairs are of one query" in refused.stderr
    content[7]["query"] = "!400 x"
    refused = run(write(bad, content), "--url", fake_server.url, "--out", tmp_path / "none")
    assert refused.returncode == 1 and b"/score: status 400: " in refused.stderr
    assert b"Traceback" not in unknown.stderr + refused.stderr
    assert not (tmp_path / "none").exists()


def test_a_model_that_is_calibrated_already_is_fitted_the_same(fake_server: Server, tmp_path: Path):
    groups = np.repeat(np.arange(30), 20)
    content = [
        {"query": f"query {number}", "passage": f"passage {index}"}
        for index, number in enumerate(groups.tolist())
    ]
    raw = np.array([logit(one["query"], one["passage"]) for one in content])
    chosen = np.random.default_rng(0).random(len(raw)) < TRUE.probabilities(raw)
    labelled = [{**one, "label": bool(y)} for one, y in zip(content, chosen, strict=True)]
    path = write(tmp_path / "labelled.jsonl", labelled)
    plain = run(path, "--url", fake_server.url, "--out", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    assert b"taken for logits" not in plain.stderr  # the server says so
    other = run(path, "--url", fake_server.url, "--of", "cosine", "--out", tmp_path / "none")
    assert other.returncode == 2 and b"the server says that this model's is a logit" in other.stderr

    keys = tmp_path / "keys.txt"
    keys.write_text("# comment\nsha256:" + "0" * 64 + "\nsecret-ключ\n")
    config = write_config(tmp_path, "score: {of: logit, temperature: 5.0, bias: 2.0}\n")
    with Server(config, tmp_path, "--api-key-file", str(keys)) as server:
        wait_until(lambda: requests.get(server.url + "/health/ready", timeout=5).ok, 20)
        out = ("--url", server.url, "--out", tmp_path / "again")
        again = run(path, *out, "--api-key-file", keys)
        by_variable = run(path, *out, RERANK_API_KEY="secret-ключ")
        no_key = run(path, *out, RERANK_API_KEY="")
    assert again.returncode == 0 and by_variable.returncode == 0, again.stderr + by_variable.stderr
    assert no_key.returncode == 1 and b"status 401: This server needs an API key" in no_key.stderr
    figures = [json.loads(done.stdout.splitlines()[-1]) for done in (plain, again, by_variable)]
    for one in figures[1:]:
        assert one["fit"] == figures[0]["fit"]
        assert one["uncalibrated"] == figures[0]["uncalibrated"]
    assert "secret" not in (tmp_path / "again" / "calibration.yaml").read_text()


class _Lists(RawValues):
    """A server that answers this list of models."""

    def __init__(self, models: object, model: str | None) -> None:
        super().__init__("http://server", model=model, api_key=None)
        self._models = models

    def _ask(self, method: str, path: str, body: object) -> object:
        return self._models


def test_what_a_server_says_of_its_models():
    models = {
        "data": [
            {"id": "a", "score": {"of": "logit"}, "default": False},
            {"id": "b", "score": {"of": "cosine"}, "default": True},
            {"id": "c", "cascade": {"first": "b", "then": "a"}},
            {"id": "d", "score": {"of": "something new"}},
        ]
    }
    kinds = {name: _Lists(models, name).kind() for name in ("a", "b", "d", None)}
    assert kinds == {"a": "logit", "b": "cosine", "d": None, None: "cosine"}
    with pytest.raises(InputError, match="c is a cascade"):
        _Lists(models, "c").kind()
    with pytest.raises(AskError, match=r"no model 'e'; it has a, b, c, d"):
        _Lists(models, "e").kind()
    for other in ({}, [], None, {"data": None}, {"data": ["x", {}]}):  # servers of another make
        assert _Lists(other, "e").kind() is None and _Lists(other, None).kind() is None


@pytest.mark.parametrize("answer", [[], {"data": 1}, {"data": [{"score": None}]}, {"data": []}])
def test_what_is_no_score_is_told(answer: object):
    with pytest.raises(AskError, match=r"http://server/score answered"):
        _Lists(answer, None).of([Pair("q", "p", True)], lambda done: None)


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    raw, labels, groups = draw(0, queries=6)
    content = [{k: v for k, v in one.items() if k != "raw"} for one in lines(raw, labels, groups)]
    path = write(tmp_path / "labelled.jsonl", content)
    assert main([str(path), "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out")]) == 1
    assert "start the server with `make serve`, or name it with --url" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    raw, labels, groups = draw(0, queries=6)
    out = tmp_path / "out"

    def wrong(words: str, *arguments: object) -> None:
        assert main([*map(str, arguments), "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()

    good = write(tmp_path / "good.jsonl", lines(raw, labels, groups))
    wrong("cannot be read: No such file", tmp_path / "gone.jsonl")
    wrong("cannot be read: Is a directory", tmp_path)
    wrong("--folds 9: 2 to 6 are possible", good, "--folds", 9)
    wrong("--folds 1: 2 to 6 are possible", good, "--folds", 1)
    wrong("which is no cosine", good, "--of", "cosine")
    reversed_ = write(tmp_path / "reversed.jsonl", lines(raw, 1 - labels, groups))
    wrong("ordered against the labels", reversed_)
    digests = tmp_path / "keys.txt"
    digests.write_text("sha256:" + "0" * 64 + "\n")
    bare = [{k: v for k, v in one.items() if k != "raw"} for one in lines(raw, labels, groups)]
    bare_path = write(tmp_path / "bare.jsonl", bare)
    wrong("holds digests only", bare_path, "--api-key-file", digests)
    wrong("cannot be read", bare_path, "--api-key-file", tmp_path / "gone.txt")
    out.write_text("a file")
    assert main([str(good), "--out", str(out)]) == 2
    assert "is not a folder: name another with --out" in capsys.readouterr().err
    for arguments in (["x", "--seed", "-1"], ["x", "--of", "none"], []):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
