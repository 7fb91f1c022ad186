"""The three clients against the whole server, and what they do with its errors."""

import subprocess
import sys

import cohere.core
import openai
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from clients.__main__ import CLIENTS, agree
from clients.wire import Ranked, ranked
from tests.harness import ROOT, Server

PASSAGES = ["one", "two", "three", "two"]


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_ranks_as_the_simple_route_scores(fake_server: Server, name: str):
    with CLIENTS[name](fake_server.url) as client:
        whole = client.rerank("q", PASSAGES)
        best = client.rerank("q", PASSAGES, top_n=2)
    assert whole == ranked(PASSAGES, fake_server.rerank("q", PASSAGES))
    assert best == whole[:2]


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_names_a_model(fake_server: Server, name: str):
    errors = (requests.HTTPError, openai.NotFoundError, cohere.core.ApiError)
    with CLIENTS[name](fake_server.url, model="org/fake") as client:
        assert len(client.rerank("q", PASSAGES)) == 4
    with (
        CLIENTS[name](fake_server.url, model="other") as client,
        pytest.raises(errors, match="There is no model"),
    ):
        client.rerank("q", PASSAGES)


def test_score_is_in_the_order_of_the_request(fake_server: Server):
    with CLIENTS["requests"](fake_server.url) as client:
        assert client.score("q", PASSAGES) == fake_server.rerank("q", PASSAGES)  # type: ignore[attr-defined]


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9])))
def test_ranked_sorts_by_score_then_index(scores: list[float]):
    items = ranked([str(i) for i in range(len(scores))], scores)
    assert [(i.score, -i.index) for i in items] == sorted(
        ((i.score, -i.index) for i in items), reverse=True
    )
    assert sorted(i.index for i in items) == list(range(len(scores)))


def test_ranked_wants_a_score_for_each_passage():
    with pytest.raises(ValueError, match="zip"):
        ranked(["a", "b"], [0.5])


def test_agree():
    one, other = [Ranked(0, 0.5, "a")], [Ranked(0, 0.5000000000000001, "a")]
    assert agree({"x": one, "y": list(one)})
    assert not agree({"x": one, "y": other})


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_the_command_line(fake_server: Server):
    done = run("--url", fake_server.url)
    assert done.returncode == 0, done.stderr
    assert "requests, openai, cohere agree to the last digit" in done.stdout
    own = run("--url", fake_server.url, "--via", "cohere", "a query", "first", "second")
    assert "query: a query" in own.stdout and "first" in own.stdout


def test_the_command_line_says_what_is_wrong(fake_server: Server):
    gone = run("--url", "http://127.0.0.1:9", "--via", "requests")
    assert gone.returncode == 1 and "error: requests: http://127.0.0.1:9" in gone.stderr
    assert "start it with `make serve`, or name it with --url" in gone.stderr
    unknown = run("--url", fake_server.url, "--model", "other", "--via", "openai")
    assert unknown.returncode == 1 and "There is no model 'other'" in unknown.stderr
    assert "Traceback" not in gone.stderr + unknown.stderr
