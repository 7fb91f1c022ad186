"""The clients against the whole server, and what they do with its errors."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clients
from clients import (
    AsyncOpenAIReranker,
    BadRequest,
    Chunk,
    NotFound,
    Refused,
    RerankClient,
    ServerFault,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from clients.__main__ import CLIENTS, agree
from clients.reranker import Reranker
from clients.retry import NEVER
from clients.wire import Ranked
from tests.fake_vllm import logit
from tests.harness import ROOT, Server, write_config
from tests.readers import sigmoid
from tests.scripted import Scripted
from tests.test_stack_server import start

PASSAGES = ["one", "two", "three", "two"]


class Sync(Reranker):
    """The async client behind the methods of the others, so that one test holds for all."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._runner.get_loop()
        self._make = lambda: AsyncOpenAIReranker(*arguments, **options)
        self._inner: AsyncOpenAIReranker | None = None

    def _run(self, name: str, *arguments: Any, **options: Any) -> Any:
        async def ask() -> Any:
            self._inner = self._inner or self._make()
            return await getattr(self._inner, name)(*arguments, **options)

        return self._runner.run(ask())

    def connect(self, *_: object) -> None: ...

    def send(self, path: str, body: dict[str, object]) -> Any: ...

    def rerank(self, *arguments: Any, **options: Any) -> list[Ranked]:
        return self._run("rerank", *arguments, **options)

    def score(self, *arguments: Any, **options: Any) -> list[float]:
        return self._run("score", *arguments, **options)

    def close(self) -> None:
        if self._inner:
            self._run("aclose")
        self._runner.close()


ALL: dict[str, Callable[..., Reranker]] = {**CLIENTS, "async": Sync}
each = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def expected(query: str, passages: list[str]) -> list[Ranked]:
    items = [
        Ranked(index, sigmoid(logit(query, text)), text, logit(query, text))
        for index, text in enumerate(passages)
    ]
    return sorted(items, key=lambda item: (-(item.raw_score or 0), item.index))


@each
def test_each_client_ranks_and_scores_alike(fake_server: Server, make: Callable[..., Reranker]):
    with make(fake_server.url) as client:
        whole = client.rerank("q", PASSAGES)
        best = client.rerank("q", PASSAGES, top_n=2)
        scores = client.score("q", PASSAGES)
    assert whole == expected("q", PASSAGES)
    assert best == whole[:2]
    assert scores == fake_server.rerank("q", PASSAGES)


@each
def test_scores_that_round_to_the_same_are_ranked_as_the_server_does(
    fake_server: Server, make: Callable[..., Reranker]
):
    passages = [f"passage {i}" for i in range(100)]
    with make(fake_server.url + "/") as client:
        ranking = client.rerank("q", passages)
    raw = [item.raw_score or 0 for item in ranking]
    assert raw == sorted(raw, reverse=True)


@each
def test_each_client_names_a_model(fake_server: Server, make: Callable[..., Reranker]):
    with make(fake_server.url, model="org/fake") as client:
        assert len(client.rerank("q", PASSAGES)) == 4
        with pytest.raises(NotFound, match="There is no model 'other'") as caught:
            client.rerank("q", PASSAGES, model="other")
        with pytest.raises(NotFound):
            client.score("q", PASSAGES, model="other")
    assert (caught.value.status, caught.value.param) == (404, "model")
    with make(fake_server.url, model="other") as client, pytest.raises(NotFound):
        client.rerank("q", PASSAGES)
    with make(fake_server.url, model="other") as client:
        assert client.score("q", PASSAGES, model="fake")


@each
def test_every_option_reaches_the_server(fake_server: Server, make: Callable[..., Reranker]):
    with make(fake_server.url) as client:
        for wrong in (
            {"max_tokens_per_doc": -4},
            {"max_chunks_per_doc": -1},
            {"truncation": "sometimes"},
            {"priority": "high"},
            {"instruction": "judge"},  # of a model without a prompt
        ):
            with pytest.raises(BadRequest) as caught:
                client.rerank("q", PASSAGES, **wrong)  # type: ignore[arg-type]
            assert caught.value.param == next(iter(wrong))
            with pytest.raises(BadRequest) as caught:
                client.score("q", PASSAGES, **wrong)  # type: ignore[arg-type]
            assert caught.value.param == next(iter(wrong))
        with pytest.raises(Refused, match="use_llm"):
            client.rerank("q", PASSAGES, use_llm=True)


@each
def test_options_go_as_they_are_given(make: Callable[..., Reranker]):
    options = {"truncation": False, "priority": -3, "max_chunks_per_doc": 4, "use_llm": False}
    with Scripted() as server, make(server.url) as client:
        client.rerank("q", ["a"], **options)  # type: ignore[arg-type]
        client.score("q", ["a"], **options)  # type: ignore[arg-type]
        client.score("q", ["a"], **dict.fromkeys(options))  # type: ignore[arg-type]
    assert [{**body, **options} == body for body in server.bodies] == [True, True, False]
    assert not set(options) & set(server.bodies[2])


@each
def test_the_part_that_counted(make: Callable[..., Reranker]):
    part = {"index": 1, "count": 3, "start": 2, "end": 5}
    for sent, chunk in ((part, Chunk(1, 3, 2, 5)), (None, None)):
        items = [{"index": 0, "relevance_score": 0.5, "chunk": sent}]
        answer = (200, {}, json.dumps({"results": items}).encode())
        with Scripted([answer]) as server, make(server.url) as client:
            assert client.rerank("q", ["12345"]) == [Ranked(0, 0.5, "12345", chunk=chunk)]


@each
def test_what_the_server_refuses(fake_server: Server, make: Callable[..., Reranker]):
    with make(fake_server.url, retry=NEVER) as client:
        with pytest.raises(TooLarge) as caught:
            client.rerank("q", ["a"] * 101)
        assert (caught.value.status, caught.value.param) == (413, "documents")
        with pytest.raises(BadRequest, match="as you wished"):
            client.rerank("!400", PASSAGES)
        for wish, status in (("!nan", 502), ("!short", 502), ("!500", 503), ("!hang", 504)):
            with pytest.raises(ServerFault) as fault:
                client.rerank(wish, PASSAGES)
            assert fault.value.status == status


@each
def test_no_passages_are_no_request(make: Callable[..., Reranker]):
    with make("http://127.0.0.1:9") as client:
        assert client.rerank("q", []) == []
        assert client.score("q", []) == []


@each
def test_wrong_arguments_are_told_before_anything_is_sent(make: Callable[..., Reranker]):
    with make("http://127.0.0.1:9") as client:
        for error, arguments, options in (
            (TypeError, ("q", "one text"), {}),
            (TypeError, (None, ["a"]), {}),
            (TypeError, ("q", ["a", 1]), {}),
            (ValueError, ("q", ["a", "\ud800"]), {}),
            (ValueError, ("q", ["a"]), {"top_n": 0}),
            (ValueError, ("q", ["a"]), {"top_n": True}),
            (TypeError, ("q", ["a"]), {"instructions": "a slip"}),
        ):
            with pytest.raises(error):
                client.rerank(*arguments, **options)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="max_chunks_per_doc"):
            client.score("q", ["a"], max_chunks=2)  # type: ignore[call-arg]


@each
def test_nobody_there(make: Callable[..., Reranker]):
    with make("http://127.0.0.1:9", retry=NEVER) as client, pytest.raises(Unreachable):
        client.rerank("q", PASSAGES)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://", "http:///v1", "ftp://host", "127.0.0.1:8000", "localhost:1"]
)
@each
def test_an_address_without_its_scheme(make: Callable[..., Reranker], url: str):
    def ask() -> None:
        with make(url) as client:
            client.rerank("q", PASSAGES)

    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        ask()


@pytest.mark.parametrize("url", ["http://[::1", "HTTP://host:x"])
@each
def test_an_address_that_is_none(make: Callable[..., Reranker], url: str):
    """It is told at once, without pauses for retries: `sleep` would fail the test."""

    def sleep(seconds: float) -> Any:
        raise AssertionError("it tries again")

    with pytest.raises(Unreachable), make(url, sleep=sleep) as client:
        client.rerank("q", PASSAGES)


def test_a_server_with_keys(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("sésame\nplain\n")
    with Server(write_config(tmp_path), tmp_path, "--api-key-file", str(keys)) as server:
        server.until_ready()
        for make in ALL.values():
            with make(server.url, api_key="plain") as client:
                assert len(client.rerank("q", PASSAGES)) == 4
            for wrong in ("wrong", None):
                with make(server.url, api_key=wrong) as client, pytest.raises(Unauthorized):
                    client.rerank("q", PASSAGES)
        with RerankClient(server.url, api_key="sésame") as client:
            assert client.models()[0]["id"] == "fake"


def test_a_cascade_ranks_in_stages_and_gives_no_plain_scores(tmp_path: Path):
    top = "  both: {cascade: {first: a, then: b, keep: 2}}\n"
    with start(tmp_path, a={}, b={}, top=top) as server:
        server.until_ready()
        answers = {}
        for name, make in ALL.items():
            with make(server.url, model="both") as client:
                answers[name] = client.rerank("q", PASSAGES)
                with pytest.raises(BadRequest, match="cascade") as caught:
                    client.score("q", PASSAGES)
                assert caught.value.param == "model"
        assert agree(answers)
        assert [item.stage for item in answers["openai"]] == ["then", "then", "first", "first"]
        with RerankClient(server.url) as client:
            listed = client.models()
        assert [bool(entry.get("cascade")) for entry in listed] == [False] * 4 + [True]


@pytest.mark.vllm
def test_what_is_cut_is_told_by_every_client(minilm_server: Server):
    passages = ["short", "long " * 600, "deep learning uses neural networks"]
    answers = {}
    for name, make in ALL.items():
        with make(minilm_server.url) as client:
            answers[name] = client.rerank("What is deep learning?", passages)
            scores = client.score("What is deep learning?", passages)
        assert scores == minilm_server.rerank("What is deep learning?", passages)
    assert agree(answers)
    assert [item.index for item in answers["async"] if item.truncated] == [1]


@pytest.mark.vllm
def test_parts_and_refused_cuts_by_every_client(minilm_server: Server):
    passages = ["I like pizza", "long " * 600 + "deep learning uses neural networks " * 30]
    query, answers = "What is deep learning?", {}
    for name, make in ALL.items():
        with make(minilm_server.url) as client:
            answers[name] = client.rerank(query, passages, max_chunks_per_doc=9)
            scores = client.score(query, passages, max_chunks_per_doc=9, priority=-1)
            for ask in (client.rerank, client.score):
                with pytest.raises(BadRequest) as caught:
                    ask(query, passages, truncation=False)
                assert caught.value.status == 400
        assert dict(enumerate(scores)) == {item.index: item.score for item in answers[name]}
    assert agree(answers)
    best, other = answers["async"]
    assert (best.index, other.chunk, best.truncated) == (1, None, False)
    assert best.chunk and best.chunk.index == best.chunk.count - 1 > 0
    assert "deep learning" in best.text[best.chunk.start : best.chunk.end]
    assert best.chunk.end == len(best.text)


def test_agree():
    one, other = [Ranked(0, 0.5, "a")], [Ranked(0, 0.5000000000000001, "a")]
    assert agree({"x": one, "y": list(one)})
    assert not agree({"x": one, "y": other})


# -- the package -----------------------------------------------------------------------------------


def test_every_name_of_the_package_is_there():
    for name in clients.__all__:
        assert getattr(clients, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        clients.Nobody  # noqa: B018


def test_a_client_needs_its_own_sdk_alone():
    def loaded(code: str) -> set[str]:
        names = "openai cohere requests httpx pyarrow serve"
        code += f"\nimport sys; print(*[n for n in '{names}'.split() if n in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
        assert not done.returncode, done.stderr
        return set(done.stdout.decode().split())

    assert loaded("import clients") == set()
    assert loaded("from clients import RerankClient, RerankError, Retry") == {"requests"}
    assert loaded("from clients import OpenAIReranker") == {"openai", "httpx"}
    assert "openai" not in loaded("from clients import CohereReranker")
    assert not loaded("import clients.__main__") & {"openai", "cohere"}


# -- the command line ------------------------------------------------------------------------------


def run(*arguments: str, module: str = "clients") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_ask(fake_server: Server):
    done = run("ask", "--url", fake_server.url)
    assert done.returncode == 0, done.stderr
    assert "requests, openai, cohere agree to the last digit" in done.stdout
    own = run("ask", "--url", fake_server.url, "--via", "cohere", "a query", "first", "second")
    assert "query: a query" in own.stdout and "first" in own.stdout


@pytest.mark.parametrize("name", ["four_passages", "eight_passages"])
def test_the_examples(fake_server: Server, name: str):
    done = run("--url", fake_server.url, module=f"clients.examples.{name}")
    assert done.returncode == 0, done.stderr
    assert "agree to the last digit" in done.stdout


def test_ask_says_what_is_wrong(fake_server: Server):
    gone = run("ask", "--url", "http://127.0.0.1:9", "--via", "requests")
    assert gone.returncode == 1 and "error: requests: http://127.0.0.1:9" in gone.stderr
    assert "start it with `make serve`, or name it with --url" in gone.stderr
    assert gone.stderr.count("127.0.0.1") == 1 and len(gone.stderr) < 150
    bare = run("ask", "--url", "127.0.0.1:8000")
    assert bare.returncode == 2 and "must begin with http:// or https://" in bare.stderr
    unknown = run("ask", "--url", fake_server.url, "--model", "other", "--via", "openai")
    assert unknown.returncode == 1 and "There is no model 'other'" in unknown.stderr
    assert "Traceback" not in gone.stderr + unknown.stderr


def test_the_help(fake_server: Server):
    for arguments, words in (
        (["--help"], ["ask", "rerank"]),
        (["ask", "--help"], ["--via", "Exit status: 0", "default: http://127.0.0.1:8000"]),
        (["rerank", "--help"], ["--batch", "Exit status: 0", "candidates", "130 interrupted"]),
    ):
        done = run(*arguments)
        assert done.returncode == 0 and all(word in done.stdout for word in words), done.stdout
    for wrong in ([], ["a query"], ["rerank"], ["rerank", "-", "--batch", "0"]):
        assert run(*wrong).returncode == 2
