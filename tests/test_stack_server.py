"""Several models behind one address, over engines that misbehave on request."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serve.errors import ConfigError, StartError
from serve.fleet import run
from tests.fake_vllm import logit
from tests.harness import ROOT, Server, alive, wait_until
from tests.readers import sigmoid


def write_stack(folder: Path, *, top: str = "", **env: dict[str, str]) -> Path:
    """A stack of models over fake engines, each with its own environment."""
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text("{}")
    for name, variables in env.items():
        config = {"model": str(weights), "names": [name, f"org/{name}"], "env": variables}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    path = folder / "stack.yaml"
    entries = "".join(f"  {name}: {{config: ./{name}.yaml}}\n" for name in env)
    path.write_text(f"models:\n{entries}{top}")
    return path


@contextlib.contextmanager
def start(folder: Path, *options: str, top: str = "", **env: dict[str, str]) -> Iterator[Server]:
    with Server(write_stack(folder, top=top, **env), folder, *options) as server:
        yield server


def phases(server: Server) -> dict[str, str]:
    models = server.get("/health/ready").json()["models"]
    return {model["name"]: model["replicas"][0]["phase"] for model in models}


def ask(server: Server, **fields: object):
    return server.post("/rerank", {"query": "q", "passages": ["a"], **fields})


def test_each_model_is_an_engine_of_its_own(tmp_path: Path):
    with start(tmp_path, a={}, b={}, top="llm: b\n") as server:
        server.until_ready()
        assert phases(server) == {"a": "ready", "b": "ready"}
        assert len(list(server.run_dir.glob("*/engine-*-*/http.sock"))) == 2
        for name in ("a", "org/a", "B", "org/b"):
            assert ask(server, model=name).ok
        assert ask(server, use_llm=True).ok
        listed = server.get("/v1/models").json()["data"]
        assert [item["id"] for item in listed] == ["a", "org/a", "b", "org/b"]
        assert [item["id"] for item in listed if item["llm"]] == ["b", "org/b"]
        metrics = server.get("/metrics").text
        assert 'rerank_pairs_total{dialect="simple",model="a"} 2' in metrics
        assert 'rerank_pairs_total{dialect="simple",model="b"} 3' in metrics
        below = server.descendants()
    assert server.process.returncode == 0
    assert not alive(below)
    assert server.left_over == []


@pytest.mark.parametrize("boot", ["die", "oom"])
def test_one_that_does_not_start_leaves_the_other_serving(tmp_path: Path, boot: str):
    with start(tmp_path, bad={"FAKE_BOOT": boot}, good={}, top="default: good\n") as server:
        wait_until(lambda: phases(server) == {"bad": "failed", "good": "ready"}, 20, server.text)
        ready = server.get("/health/ready")
        assert ready.status_code == 200
        body = ready.json()
        assert (body["ready"], body["degraded"]) == (True, True)
        assert [model["ready"] for model in body["models"]] == [False, True]
        assert ask(server).ok
        failed = ask(server, model="bad")
        assert failed.status_code == 503
        assert "will not come back by itself" in failed.json()["message"]
        assert "retry-after" not in failed.headers
    assert server.process.returncode == 0
    assert "bad: vLLM did not start" in server.text()
    assert "the other models go on" in server.text()


def test_one_that_dies_leaves_the_other_serving_and_comes_back(tmp_path: Path):
    with start(tmp_path, a={}, b={}) as server:
        server.until_ready()
        died = server.post("/rerank", {"query": "!die", "passages": ["a"], "model": "b"})
        assert died.status_code == 503
        assert ask(server, model="a").ok
        wait_until(lambda: "the engine died" in server.text(), 10, server.text)
        assert server.get("/health/ready").json()["degraded"]
        assert ask(server, model="a").ok
        server.until_ready()
        assert ask(server, model="b").ok


def test_one_that_keeps_dying_is_given_up_and_the_other_goes_on(tmp_path: Path):
    """A digest that is wrong is the same: that model fails, and says why."""
    path = write_stack(tmp_path, a={}, b={})
    with (tmp_path / "b.yaml").open("a") as file:
        file.write("sha256: {config.json: '00'}\n")
    with Server(path, tmp_path) as server:
        wait_until(lambda: phases(server) == {"a": "ready", "b": "failed"}, 20, server.text)
        assert ask(server).ok
    assert "b: sha256:" in server.text()


def test_when_all_have_failed_the_server_ends(tmp_path: Path):
    with start(tmp_path, a={"FAKE_BOOT": "die"}, b={"FAKE_BOOT": "oom"}) as server:
        assert server.wait() == 1
    last = server.text().strip().splitlines()[-1]
    assert last.startswith("error: ") and "vLLM did not start" in last


def test_while_nothing_is_ready_health_is_503(tmp_path: Path):
    with start(tmp_path, a={"FAKE_BOOT": "hang"}, b={"FAKE_BOOT": "hang"}) as server:
        ready = server.get("/health/ready")
        assert ready.status_code == 503
        assert not ready.json()["ready"]
        engines = [model["replicas"][0] for model in ready.json()["models"]]
        assert all(engine["seconds_in_phase"] < 60 for engine in engines)  # not since the boot
        assert server.get("/health/live").ok


@pytest.mark.parametrize(("policy", "status"), [("refuse", 404), ("default", 200)])
def test_an_unknown_name(tmp_path: Path, policy: str, status: int):
    with start(tmp_path, a={}, b={}, top=f"unknown_model: {policy}\n") as server:
        server.until_ready()
        body = {"model": "rerank-english-v3.0", "query": "q", "documents": ["x"]}
        answer = server.post("/v2/rerank", body)
        assert answer.status_code == status
        if status == 404:
            assert "served: a, org/a, b, org/b" in answer.json()["message"]
        else:
            assert answer.json()["model"] == "a"


def test_a_cascade(tmp_path: Path):
    top = "  both:\n    cascade: {first: a, then: b, keep: 2}\n"
    with start(tmp_path, a={}, b={}, top=top) as server:
        server.until_ready()
        documents = ["one", "two", "three", "four"]
        body = {"model": "both", "query": "q", "documents": documents}
        answer = server.post("/v1/rerank", body).json()
        assert answer["model"] == "both"
        values = [logit("q", text) for text in documents]
        order = sorted(range(4), key=lambda index: -values[index])
        assert [item["index"] for item in answer["results"]] == order
        for place, item in enumerate(answer["results"]):
            value = values[item["index"]]
            kept = place < 2
            assert item["raw_scores"] == {"first": value, "then": value if kept else None}
            assert item["stage"] == ("then" if kept else "first")
            assert item["relevance_score"] == sigmoid(value)
        for path in ("/rerank", "/score"):
            fields = {"passages": documents} if path == "/rerank" else {"text_2": documents}
            refused = server.post(path, {"model": "both", "query": "q", "text_1": "q", **fields})
            assert refused.status_code == 400, refused.text
            assert "no plain scores" in refused.json()["message"]
        models = {item["id"]: item for item in server.get("/v1/models").json()["data"]}
        assert models["both"]["cascade"] == {"first": "a", "then": "b", "keep": 2}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_engines_of_a_gpu_start_one_after_the_other(tmp_path: Path, device: str):
    path = write_stack(tmp_path, a={"FAKE_BOOT": "late"}, b={})
    path.write_text(
        "models:\n  a: {config: ./a.yaml, gpu_memory: 0.5}\n"
        "  b: {config: ./b.yaml, gpu_memory: 0.5}\n"
    )
    with Server(path, tmp_path, "--device", device) as server:
        wait_until(lambda: "ready" in phases(server).values(), 20, server.text)
        first = [name for name, phase in phases(server).items() if phase == "ready"]
        assert first[0] == ("a" if device == "gpu" else "b")
        server.until_ready()


def test_one_that_fails_has_ended_before_the_next_ones_turn(tmp_path: Path):
    """On a GPU it would still hold the memory that the next one measures."""
    path = write_stack(tmp_path, a={"FAKE_BOOT": "hang", "FAKE_STUBBORN": "1"}, b={})
    with (tmp_path / "a.yaml").open("a") as file:
        file.write("limits: {start_timeout_s: 1}\n")
    path.write_text(
        "models:\n  a: {config: ./a.yaml, gpu_memory: 0.5}\n"
        "  b: {config: ./b.yaml, gpu_memory: 0.5}\n"
    )
    with Server(path, tmp_path, "--device", "gpu") as server:
        wait_until(lambda: phases(server)["b"] == "waiting", 20, server.text)
        wait_until(lambda: phases(server)["b"] != "waiting", 20, server.text)
        assert phases(server)["a"] in ("dead", "failed")
        wait_until(lambda: phases(server) == {"a": "failed", "b": "ready"}, 20, server.text)


@pytest.mark.parametrize("text", ["{}", '{"version": "1.0", "model": {"type": "NewKind"}}'])
def test_a_tokenizer_that_cannot_be_read_is_told_and_harms_nobody(tmp_path: Path, text: str):
    path = write_stack(tmp_path, a={})
    (tmp_path / "weights" / "tokenizer.json").write_text(text)
    with Server(path, tmp_path) as server:
        server.until_ready()
        assert ask(server).ok
    assert "a: its tokenizer cannot be read" in server.text()


def test_a_cascade_tells_of_the_requests_own_texts(tmp_path: Path):
    top = "  both:\n    cascade: {first: a, then: b, keep: 2}\n"
    path = write_stack(tmp_path, top=top, a={}, b={})
    with (tmp_path / "b.yaml").open("a") as file:
        file.write("limits: {text_chars: 5, passages: 2}\n")
    with Server(path, tmp_path) as server:
        server.until_ready()
        body = {"model": "both", "query": "q", "documents": ["one", "two", "longer", "four"]}
        answer = server.post("/v2/rerank", body)
        assert answer.status_code == 413
        assert answer.json()["error"]["param"] == "documents[2]"
        body["documents"] = ["one", "two", "three", "four"]  # more than the second model takes
        assert server.post("/v2/rerank", body).ok


def test_a_cascade_whose_second_model_is_away(tmp_path: Path):
    top = "  both:\n    cascade: {first: a, then: b, keep: 2}\n"
    with start(tmp_path, top=top, a={}, b={"FAKE_BOOT": "die"}) as server:
        wait_until(lambda: phases(server) == {"a": "ready", "b": "failed"}, 20, server.text)
        body = {"model": "both", "query": "q", "documents": ["one", "two"]}
        answer = server.post("/v2/rerank", body)
        assert answer.status_code == 503
        assert "The model 'b' failed" in answer.json()["message"]
        models = {item["id"]: item for item in server.get("/v1/models").json()["data"]}
        assert not models["both"]["ready"]


def test_use_llm_chooses_on_every_route(tmp_path: Path):
    with start(tmp_path, a={}, b={}, top="llm: b\n") as server:
        server.until_ready()
        body = {"query": "q", "documents": ["x"], "text_1": "q", "text_2": "x"}
        for path in ("/v1/rerank", "/v2/rerank", "/score"):
            for use_llm, name in ((False, "a"), (True, "b"), ("true", "b")):
                answer = server.post(path, {**body, "use_llm": use_llm})
                assert answer.json()["model"] == name, answer.text


def test_check_says_what_a_stack_is(tmp_path: Path):
    top = "  both:\n    cascade: {first: a, then: b, keep: 2}\nllm: b\n"
    path = write_stack(tmp_path, top=top, a={}, b={})
    command = [sys.executable, "-m", "serve", "check", str(path), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "weights"
    assert done.stdout.splitlines() == [
        f"a: {weights}, score: logit (the default)",
        f"b: {weights}, score: logit (answers use_llm)",
        "both: a, then b for the best 2",
        f"{path}: good, on a CPU",
    ]


def test_shares_that_do_not_add_up_stop_the_start(tmp_path: Path):
    with start(tmp_path, "--device", "gpu", a={}, b={}) as server:
        assert server.wait() == 2
    assert "gpu_memory: 0.92 (a) + 0.92 (b) = 1.84, more than the GPU has" in server.text()


class _Member:
    """Ends as it is told."""

    def __init__(self, ends: BaseException | None) -> None:
        self.ends = ends
        self.is_cancelled = False

    async def run(self) -> None:
        if self.ends is not None:
            raise self.ends
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise


@pytest.mark.parametrize("errors", [[StartError("x")], [StartError("x"), ConfigError("y")]])
def test_the_last_failure_is_raised(errors: list[Exception]):
    with pytest.raises(type(errors[-1]), match=str(errors[-1])):
        asyncio.run(run([_Member(error) for error in errors]))  # type: ignore[list-item]


def test_a_fault_of_our_own_ends_all():
    other = _Member(None)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run([_Member(ZeroDivisionError()), other]))  # type: ignore[list-item]
    assert other.is_cancelled
