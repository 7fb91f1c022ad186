"""Load in every dialect: on our own server and on an engine, and what is no right answer."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from benchmarks.load.generator import Asker
from benchmarks.load.latency import LOST, OK, WRONG, Shot
from benchmarks.load.targets import DIALECTS, Target, WrongAnswer, failure, of_route
from benchmarks.load.texts import Question
from tests.chaos.site import expected
from tests.fake_vllm import logit
from tests.harness import KEY, Server

QUESTION = Question("what is a fruit", ["a hammer", "an apple", "a pear", "a nail"])


def ask(target: Target, question: Question = QUESTION) -> tuple[Shot, Sequence[float]]:
    """What came of one request, and the scores."""
    found: list[Sequence[float]] = []

    async def run() -> Shot:
        async with Asker(
            target, timeout_s=20, on_scores=lambda _, scores: found.append(scores)
        ) as asker:
            return await asker.ask(question, asker.body(question))

    return asyncio.run(run()), found[0] if found else []


def engine(server: Server) -> str:
    return str(next(server.run_dir.glob("*/engine-0-*/http.sock")))


@pytest.mark.parametrize(
    ("name", "route"),
    [
        *((name, "") for name in DIALECTS),
        ("documents", "/v1/rerank"),
        ("documents", "/v2/rerank"),
        ("score", "/v1/score"),
        ("simple", "/v1/rerank"),
        ("nim", "/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking"),
    ],
)
def test_our_server_answers_every_dialect_in_the_passages_order(
    name: str, route: str, fake_server: Server
):
    target = Target("ours", fake_server.url, dialect=DIALECTS[name], route=route, model="fake")
    shot, scores = ask(target)
    assert (shot.outcome, shot.passages) == (OK, 4)
    raw = [logit(QUESTION.query, passage) for passage in QUESTION.passages]
    right = raw if name == "nim" else expected(QUESTION.query, QUESTION.passages)
    assert scores == pytest.approx(right, abs=1e-6)


def test_an_engine_is_asked_over_its_unix_socket(fake_server: Server):
    target = Target("direct", "http://engine", engine(fake_server), DIALECTS["queries"])
    shot, scores = ask(target)
    assert shot.outcome == OK
    assert scores == [logit(QUESTION.query, passage) for passage in QUESTION.passages]


@pytest.mark.parametrize(
    ("wish", "outcome"),
    [(wish, WRONG) for wish in ("nan", "inf", "null", "short", "garbage")]
    + [("503", "503"), ("400", "400"), ("drop", LOST)],
)
def test_a_wrong_answer_counts_as_a_failure(wish: str, outcome: str, fake_server: Server):
    target = Target("direct", "http://engine", engine(fake_server), DIALECTS["queries"])
    shot, scores = ask(target, Question(f"!{wish}", QUESTION.passages))
    assert (shot.outcome, scores) == (outcome, [])
    assert shot.told


def test_refusals_count_by_their_code_and_a_key_is_sent(keyed_server: Server):
    shot, _ = ask(Target("ours", keyed_server.url))
    assert shot.outcome.startswith("401 ")
    keyed = Target("ours", keyed_server.url, headers={"authorization": f"Bearer {KEY}"})
    assert ask(keyed)[0].outcome == OK
    assert KEY not in repr(keyed)


def test_nobody_there_is_a_failure_too(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shot, _ = ask(Target("none", f"http://127.0.0.1:{free.getsockname()[1]}"))
    assert shot.outcome == LOST
    assert ask(Target("none", "http://x", str(tmp_path / "none.sock")))[0].outcome == LOST


def items(score: str) -> list[dict[str, float]]:
    """As servers rank them: the best first."""
    return [{"index": 1, score: 2.0}, {"index": 0, score: 1}]


RIGHT = {
    "documents": {"results": items("relevance_score")},
    "score": {"data": items("score")[::-1]},
    "queries": {"data": items("score")},
    "simple": [1.0, 2.0],
    "tei": items("score"),
    "nim": {"rankings": items("logit")},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_scores_are_read_by_their_index(name: str):
    assert DIALECTS[name].scores(orjson.dumps(RIGHT[name]), 2) == [1.0, 2.0]
    for passages in (1, 3):
        with pytest.raises(WrongAnswer, match=f"2 scores of {passages} passages"):
            DIALECTS[name].scores(orjson.dumps(RIGHT[name]), passages)


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"results": null}', b"[0.1, 0.2]"])
def test_what_is_no_answer_is_wrong(content: bytes):
    with pytest.raises(WrongAnswer):
        DIALECTS["documents"].scores(content, 2)


@pytest.mark.parametrize(
    "item",
    [
        b"1",
        b'{"index": 1}',
        b'{"relevance_score": 1}',
        b'{"index": 0, "relevance_score": 1}',
        b'{"index": 2, "relevance_score": 1}',
        b'{"index": 1, "relevance_score": null}',
        b'{"index": 1, "relevance_score": "1"}',
        b'{"index": 1, "relevance_score": true}',
        b'{"index": 1, "relevance_score": 1e999}',
    ],
)
def test_an_item_that_is_no_score_of_the_other_passage_is_wrong(item: bytes):
    content = b'{"results": [{"index": 0, "relevance_score": 1}, %s]}' % item
    with pytest.raises(WrongAnswer):
        DIALECTS["documents"].scores(content, 2)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": "overloaded", "message": "wait"}', "429 overloaded"),
        (b'{"error": {"message": "m", "type": "BadRequest", "code": 400}}', "429 BadRequest"),
        (b'{"error": "Model is overloaded", "error_type": "overloaded"}', "429 overloaded"),
        (b'{"detail": "no"}', "429"),
        (b"<html>", "429"),
        (b"[]", "429"),
    ],
)
def test_a_failure_is_told_by_status_and_code(body: bytes, told: str):
    assert failure(429, body) == told


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("", "documents"),
        ("/v2/rerank", "documents"),
        ("/rerank/", "documents"),
        ("/v1/score", "score"),
        ("/v1/ranking", "nim"),
        ("/v1/retrieval/nvidia/reranking", "nim"),
    ],
)
def test_a_route_says_what_is_mostly_spoken_there(route: str, name: str):
    assert of_route(route).name == name
