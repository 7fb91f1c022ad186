"""What vLLM's log says, and when a dead engine is started again. Lines are vLLM's own."""

import asyncio
import os
import shlex
import tempfile
from pathlib import Path

import pytest

from serve import argv
from serve.engine import Engine
from serve.errors import StartError
from serve.replica import Replica
from serve.spec import Model
from serve.supervise import DEATHS_ALLOWED, DEATHS_WINDOW_S, Supervisor, backoff_s
from serve.vllm_log import Progress, explain, progress
from tests.harness import FAKE_ENGINE

W = "(Worker pid=4113) INFO 11-22 14:40:23 "


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (W + "[cpu_model_runner.py:68] Starting to load model a/b...", Progress("loading")),
        ("model.safetensors:  42%|####    | 420M/1.0G [00:01<00:02]", Progress("downloading", 42)),
        ("Fetching 9 files:  11%|#      | 1/9 [00:01<00:08]", Progress("downloading", 11)),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00]",
            Progress("loading", 50),
        ),
        (W + "[monitor.py:53] torch.compile takes 21.4 s in total", Progress("compiling")),
        ("INFO:     Application startup complete.", Progress("warming up")),
        (W + "[base_loader.py:82] Initializing model took 0.121510 seconds", None),
        ("", None),
    ],
)
def test_progress(line: str, expected: Progress | None):
    assert progress(line) == expected


E = "(EngineCore pid=1) ERROR 11-22 14:40:23 [core.py:9] "


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (
            [
                W + "[x.py:1] Found ulimit, fd limit errors like `OSError: [Errno 24] Too many`",
                "httpcore.ConnectError: [Errno -2] Name or service not known",
                "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
            ],
            1,
            "the model hub cannot be reached",
        ),
        (["401 Client Error: Unauthorized for url"], 1, "HF_TOKEN"),
        (["OSError: a/b is not a valid model identifier"], 1, "no such model or revision"),
        (["torch.OutOfMemoryError: CUDA out of memory. Tried"], 1, "not enough memory"),
        (
            [
                E + "ValueError: Free memory on device (1/15 GiB) on startup is less than desired"
                " GPU memory utilization (0.9, 13 GiB)."
            ],
            1,
            "not enough memory",
        ),
        (
            [E + "ValueError: No available memory for the cache blocks. Try increasing"],
            1,
            "gpu-memory-utilization",
        ),
        (
            ["  Value error, User-specified max_model_len (100000) is greater than the derived"],
            1,
            "max-model-len",
        ),
        (
            ["entry.py: error: unrecognized arguments: --no-such-option"],
            2,
            "--no-such-option → vLLM does not take this option or its value",
        ),
        (
            ["ValueError: Model architectures ['X'] are not supported for now."],
            1,
            "cannot serve the model's architecture",
        ),
        (["/usr/bin/python: No module named vllm"], 1, "vLLM is not installed"),
        (
            [
                E + "Traceback (most recent call last):",
                E + "ValueError: the first",
                "RuntimeError: Engine core initialization failed. See root cause above.",
            ],
            1,
            "ValueError: the first",
        ),
        (["(APIServer pid=1) INFO 11-22 14:40:23 [a.py:1] ValueError: in passing"], 1, "no error"),
        ([], 3, "exit status 3"),
        ([], None, "no error in its log"),
        ([], -9, "killed (signal 9)"),
        ([W + "[x] fine"], 137, "lack of memory"),
    ],
)
def test_explain(lines: list[str], status: int, words: str):
    reason = explain(lines, status)
    assert words in reason
    assert "\n" not in reason


def test_a_long_line_is_shortened():
    assert len(explain(["ValueError: " + "x" * 5000], 1)) == 300


def test_backoff_grows_and_ends():
    assert [backoff_s([0.0] * n, 1.0) for n in range(1, DEATHS_ALLOWED + 1)] == [1, 2, 4, 8, 16]
    assert backoff_s([0.0] * (DEATHS_ALLOWED + 1), 1.0) is None


def test_old_deaths_are_forgotten():
    now = DEATHS_WINDOW_S * 2
    assert backoff_s([0.0] * 50 + [now], now) == 1


@pytest.mark.parametrize(
    ("second_life", "words"),
    [("0.3", "exit status 9"), ("oom", "not enough memory")],
    ids=["dies again", "does not start again"],
)
def test_an_engine_that_keeps_dying_is_given_up(second_life: str, words: str):
    model = Model(model="/m", names=("m",))

    async def story(folder: Path) -> Replica:
        socket = str(folder / "http.sock")
        command = argv.build(
            model, weights="/m", socket=socket, device="gpu", vllm=shlex.split(FAKE_ENGINE)
        )
        environment = {**os.environ, "FAKE_LIFE_S": "0.3"}
        replica = Replica(Engine(socket))

        def backoff(deaths: object, now: float) -> float | None:
            if second_life == "oom":
                environment["FAKE_BOOT"] = "oom"
            return None if len(deaths) > 2 else 0.0  # type: ignore[arg-type]

        supervisor = Supervisor(
            model,
            replica,
            command,
            directory=folder,
            log_file=folder / "log",
            environment=environment,
            backoff=backoff,
        )
        with pytest.raises(StartError) as error:
            await supervisor.run()
        assert "m: the engine died 3 times, giving up" in str(error.value)
        assert words in str(error.value)
        return replica

    with tempfile.TemporaryDirectory(prefix="rerank-") as folder:
        replica = asyncio.run(story(Path(folder)))
    assert replica.restarts == 2
    assert replica.progress.phase == "failed"
