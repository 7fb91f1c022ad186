"""Pure: what a line of vLLM's log says of the start, and which of them explains a failure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The phases of a start, in order. "starting" is vLLM's own imports and configuration.
PHASES = ("starting", "downloading", "loading", "compiling", "warming up", "ready")

_PHASE_PATTERNS: Sequence[tuple[str, re.Pattern[str]]] = (
    (
        "downloading",
        re.compile(r"^(?:Fetching|Downloading)\b|\.(?:safetensors|bin|json|model): +\d+%"),
    ),
    ("loading", re.compile(r"Starting to load model|Loading \S+ checkpoint shards")),
    ("compiling", re.compile(r"torch\.compile takes|Capturing CUDA graph|Compiling a graph")),
    ("warming up", re.compile(r"Application startup complete")),
)
_PERCENT = re.compile(r"\b(\d{1,3})%")
_PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) )?(?:([A-Z]+) \d\d-\d\d [\d:]+ \[[^]]*\] )?")
_NOTICES = ("DEBUG", "INFO", "WARNING")
_EXCEPTION = re.compile(r"^(?:[\w.]*\.)?(?:[A-Z]\w*(?:Error|Exception)|KeyboardInterrupt): \S")
_RELAYED = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")

# What went wrong, as vLLM says it, and what its user can do.
_REMEDIES: Sequence[tuple[re.Pattern[str], str]] = (
    (
        re.compile(r"couldn't connect to|Name or service not known|LocalEntryNotFound|Max retries"),
        "the model hub cannot be reached: check the network or HF_ENDPOINT, or give a local folder",
    ),
    (
        re.compile(r"(?i)gated repo|401 client error|access to model .* is restricted"),
        "the model is gated: accept its terms on its page and set HF_TOKEN",
    ),
    (
        re.compile(r"(?i)not a valid model identifier|repository not found|revision .* not found"),
        "there is no such model or revision: check `model:` and `revision:`",
    ),
    (
        re.compile(r"(?i)out of memory|less than desired|less than requested|available memory"),
        "not enough memory: stop what else uses it, choose a smaller model, or lower"
        " `vllm: {gpu-memory-utilization: …}` (on a CPU `env: {VLLM_CPU_KVCACHE_SPACE: …}`)",
    ),
    (
        re.compile(r"max_model_len \(\d+\) is greater"),
        "`vllm: {max-model-len: …}` is more than the model has: lower it",
    ),
    (
        re.compile(r"error: (?:unrecognized arguments|argument |ambiguous option)"),
        "vLLM does not take this option or its value: correct `vllm:` in the YAML",
    ),
    (
        re.compile(r"(?i)model architectures .* (?:not supported|failed)"),
        "this vLLM cannot serve the model's architecture",
    ),
    (
        re.compile(r"No module named '?vllm|No module named vllm"),
        "vLLM is not installed in this environment: `make install`, or name another with --vllm",
    ),
)


@dataclass(frozen=True)
class Progress:
    """A phase of the start and what is known of it: percent done (0..100), bytes downloaded."""

    phase: str
    percent: int | None = None
    bytes: int | None = None


def progress(line: str) -> Progress | None:
    """What `line` says of the start, or None."""
    for phase, pattern in _PHASE_PATTERNS:
        if pattern.search(line):
            percent = _PERCENT.search(line)
            return Progress(phase, int(percent[1]) if percent else None)
    return None


def explain(lines: Iterable[str], exit_code: int | None) -> str:
    """One line: the first error in an engine's log that says something, and what to do about it."""
    plain = [line for line in map(_message, lines) if line]
    for line in plain:
        for pattern, remedy in _REMEDIES:
            if pattern.search(line):
                return f"{_shorten(line)} → {remedy}"
    if exit_code in (-9, 137):
        return "killed (signal 9): by somebody, or by the kernel for lack of memory → free memory"
    errors = [line for line in plain if _EXCEPTION.search(line) and not _RELAYED.search(line)]
    if errors:
        return _shorten(errors[0])
    return "no error in its log" + ("" if exit_code is None else f", exit status {exit_code}")


def _message(line: str) -> str:
    """What a log line says without its prefix, or nothing for one below ERROR."""
    prefix = _PREFIX.match(line)
    if prefix is None or prefix[1] in _NOTICES:
        return ""
    return line[prefix.end() :].strip()


def _shorten(line: str, limit: int = 300) -> str:
    return line if len(line) <= limit else line[: limit - 1] + "…"
