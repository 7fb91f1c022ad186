"""Who takes part: every peer that can be had, started, at rest, ready for its turn."""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from tokenizers import Tokenizer

from benchmarks.outcome import MeasureError
from benchmarks.peers import environments
from benchmarks.peers.served import served
from benchmarks.peers.subjects import CROSS_ENCODER, DTYPES, Subject
from benchmarks.peers.texts import WORDS, Texts, whole_words
from benchmarks.peers.worker import Worker, WorkerError
from deploy.install import InstallError
from serve import shelf, weights

SEED = 1
VOCABULARY = 250_002
SAMPLES, SAMPLE_TOKENS = 24, 128  # texts that the random model's last layer is scaled by
WARM_UP_PASSAGES = 4
# Peer → environment, worker, types.
IN_PROCESS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "sentence-transformers": ("torch", "sentence", DTYPES),
    "infinity": ("infinity", "infinity", DTYPES),
    "onnxruntime": ("torch", "onnx", ("float32", "int8")),
    "flashrank": ("torch", "onnx", ("int8",)),
}
# What scores are compared with, so that it takes part whoever else does.
REFERENCE = ("sentence-transformers", "float32")
Question = tuple[str, Sequence[str]]
Ask = Callable[[int], Question]  # number of a question → the question, the same for every peer


class Scorer(Protocol):
    """A peer: what it may be set to, and what it makes of a question, in how many seconds."""

    @property
    def settings(self) -> Sequence[Any]: ...

    def score(
        self, query: str, passages: Sequence[str], setting: Any
    ) -> tuple[list[float], float]: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


class InProcess:
    """A worker as a scorer."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.settings: Sequence[Any] = worker.ready["settings"]
        self.freeze, self.thaw = worker.freeze, worker.thaw

    def score(self, query: str, passages: Sequence[str], setting: Any) -> tuple[list[float], float]:
        told = self._worker.ask(cmd="score", query=query, passages=passages, setting=setting)
        return told["scores"], told["seconds"]


@dataclass
class Seat:
    """One peer, its best setting at this length, and what it has done there."""

    peer: str
    dtype: str
    scorer: Scorer
    setting: Any = None
    rates: list[float] = field(default_factory=list)
    raw: list[list[float]] = field(default_factory=list)  # of each round's first question

    def begin(self, question: Question) -> None:
        """Forgets what it did, warms up, keeps the fastest setting. Raises WorkerError."""
        self.rates, self.raw, seconds = [], [], {}
        query, passages = question
        for number, setting in enumerate(self.scorer.settings):
            self.scorer.score(query, passages[:WARM_UP_PASSAGES], setting)
            seconds[number] = self.scorer.score(query, passages, setting)[1]
        self.setting = self.scorer.settings[min(seconds, key=seconds.__getitem__)]

    def turn(self, ask: Ask, seconds: float) -> None:
        """Answers question after question until `seconds` are over. Raises WorkerError."""
        spent, pairs, number = 0.0, 0, 0
        while spent < seconds:
            query, passages = ask(number)
            scores, took = self.scorer.score(query, passages, self.setting)
            if number == 0:
                self.raw.append(scores)
            spent, pairs, number = spent + took, pairs + len(passages), number + 1
        self.rates.append(pairs / spent)


class Seats:
    """The peers of one model that could be started (`each`), who multiplies matrices for the
    ceiling (`gemm`), and what is to be told of the others (`notes`)."""

    def __init__(
        self,
        stack: ExitStack,
        subject: Subject,
        options: argparse.Namespace,
        env: Mapping[str, str],
    ) -> None:
        """All are ended with `stack`. Raises MeasureError where there is not even the model."""
        self._stack, self._subject, self._env = stack, subject, env
        self._cache: Path = options.cache.resolve()
        self.notes: list[str] = []
        self.each: list[Seat] = []
        self._torch = self._python("torch")
        self._folder = self._weights()
        self.texts = self._make_texts()
        self.gemm = self._worker("torch", "gemm", {}, "the matrix products")
        for peer, (environment, module, dtypes) in IN_PROCESS.items():
            for dtype in dtypes:
                if peer not in options.peers and (peer, dtype) != REFERENCE:
                    continue
                loads = self._loads(dtype, peer == "flashrank")
                worker = self._worker(environment, module, loads, f"{peer} {dtype}")
                if worker:
                    self.each.append(Seat(peer, dtype, InProcess(worker)))
        self._seat_ours("vllm" in options.peers)

    def _seat_ours(self, with_bare: bool) -> None:
        work = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            found = self._stack.enter_context(served(self._subject, self._folder, work))
        except AssertionError as error:  # the harness's word for a server that does not start
            raise MeasureError(f"our server does not start: {error}") from error
        for (peer, dtype), scorer in found.items():
            if peer == "ours" or with_bare:
                self.each.append(Seat(peer, dtype, scorer))
                self._tell(scorer.version)

    def _worker(
        self, environment: str, module: str, loads: Mapping[str, object], words: str
    ) -> Worker | None:
        """A worker at rest, or None and a note."""
        python = self._torch if environment == "torch" else self._python(environment)
        if python is None:
            return None
        loads = {"cores": psutil.cpu_count(logical=False) or 1, **loads}
        try:
            worker = self._stack.enter_context(Worker.of(python, module, loads, self._env))
        except WorkerError as error:
            self._tell(f"{self._subject.name}: {words} cannot be started: {error}")
            return None
        worker.freeze()
        self._tell(str(worker.ready["version"]))
        return worker

    def _python(self, environment: str) -> Path | None:
        try:
            return environments.python(environment, self._cache / "peers")
        except (InstallError, OSError) as error:
            self._tell(f"the environment {environment!r} cannot be made: {error}")
            return None

    def _loads(self, dtype: str, is_flashrank: bool) -> Mapping[str, object]:
        subject = self._subject
        return {
            "kind": subject.kind,
            "folder": str(self._folder),
            "cache": str(self._cache / "benchmarks" / f"{subject.name}-onnx"),
            "dtype": dtype,
            "most": subject.most,
            "pad": subject.pad,
            "flashrank": is_flashrank,
        }

    def _tell(self, note: str) -> None:
        if note not in self.notes and note != "ours":
            self.notes.append(note)

    def _make_texts(self) -> Texts:
        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_padding()  # to a fixed length, as some files have it
        tokenizer.no_truncation()
        words = whole_words(lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))
        return Texts(words, self._subject.around)

    def _weights(self) -> Path:
        """The model's folder; the cross-encoder is made when it is not there yet."""
        if self._subject is not CROSS_ENCODER:
            return Path(weights.locate(shelf.find(self._subject.config)))
        folder = self._cache / "benchmarks" / self._subject.name
        if folder.is_dir():
            return folder
        if self._torch is None:
            raise MeasureError("the cross-encoder cannot be made: " + "; ".join(self.notes))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            shape = {**_shape(self._subject), "folder": made, "cores": psutil.cpu_count() or 1}
            try:
                Worker.of(self._torch, "build", shape, self._env).close()
            except WorkerError as error:
                raise MeasureError(f"the cross-encoder cannot be made: {error}") from error
            Path(made).chmod(0o755)
            Path(made).rename(folder)
            Path(made).mkdir()  # for its own end to remove
        return folder


def _shape(subject: Subject) -> Mapping[str, object]:
    texts = Texts(WORDS, subject.around)
    samples = [texts.make(SEED + n, 1, SAMPLE_TOKENS) for n in range(SAMPLES)]
    return {
        "seed": SEED,
        "words": WORDS,
        "texts": [(query, passages[0]) for query, passages in samples],
        "vocabulary": VOCABULARY,
        "layers": subject.layers,
        "width": subject.width,
        "inner": subject.inner,
        "heads": subject.heads,
        "positions": subject.most + 2,
    }
