"""Fits the temperature and bias that turn a model's raw values into probabilities.

`python -m benchmarks.calibrate labelled.jsonl --url http://127.0.0.1:8000 --model NAME`: each line
of the file is {"query", "passage", "label"} or {"query", "passages", "labels"}; with a number "raw"
for each pair no server is asked. Writes `calibration.yaml`, the snippet for the model's YAML, and
`reliability.png`. Exit status: 0 done, 1 the server could not be asked, 2 bad input or arguments.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import calibration, report
from benchmarks.calibration import CalibrationError, Floats, Ints
from benchmarks.labelled import InputError, Pair, read
from benchmarks.raw_values import AskError, RawValues
from benchmarks.reliability import draw
from serve.errors import ConfigError
from serve.key_file import read_plain

KEY_VARIABLE = "RERANK_API_KEY"


@dataclass(frozen=True, slots=True)
class Data:
    """What is fitted: arrays of one entry for each pair, and what the raw values are."""

    raw: Floats
    labels: Ints
    groups: Ints
    of: str


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        _run(options, given, os.environ)
    except AskError as error:
        return _fail(error, 1)
    except (InputError, CalibrationError, ConfigError, OSError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted: nothing was written", 130)
    return 0


def _run(options: argparse.Namespace, given: Sequence[str], environment: Mapping[str, str]) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out} is not a folder: name another with --out")
    pairs = _read(options.labelled, options.threshold)
    folds = _check_folds(options.folds, len({pair.query for pair in pairs}))
    data = _data(pairs, options, environment)
    result, held_out = _calibrate(data, folds, options.seed)
    result = replace(result, command=("python", "-m", "benchmarks.calibrate", *given))
    snippet = report.snippet(result)
    name = options.model or Path(options.labelled).name
    title = f"{name}: {result.pairs} pairs of {result.queries} queries, held out in {folds} folds"
    plot = draw(calibration.uncalibrated(data.raw, data.of), held_out, data.labels, title=title)
    report.write(options.out, {"calibration.yaml": snippet.encode(), "reliability.png": plot})
    for warning in report.warnings(result):
        _say(f"warning: {warning}")
    print(f"{report.table(result)}\n\n{snippet}\nwritten: {options.out}/calibration.yaml,", end="")
    print(f" {options.out}/reliability.png")
    print(json.dumps({"model": options.model, "seed": options.seed, **asdict(result)}))


def _calibrate(data: Data, folds: int, seed: int) -> tuple[report.Result, Floats]:
    """The fit with all its figures, and each pair's probability by a fit without its query."""
    raw, labels, groups = data.raw, data.labels, data.groups
    before = calibration.uncalibrated(raw, data.of)
    fit = calibration.fit(raw, labels)
    held_out = calibration.held_out(raw, labels, groups, folds=folds, seed=seed)
    # The AUC is of the order, which no fold's fit may change: it needs no held-out queries.
    qualities = (
        calibration.quality(before, labels, raw),
        calibration.quality(held_out, labels, fit.logits(raw)),
    )
    calibration.check_order(raw, fit.logits(raw), *qualities)
    result = report.Result(
        fit=fit,
        intervals=calibration.intervals(raw, labels, groups, seed=seed),
        uncalibrated=qualities[0],
        calibrated=qualities[1],
        of=data.of,
        pairs=len(raw),
        queries=len(set(groups.tolist())),
        relevant=int(labels.sum()),
        folds=folds,
    )
    return result, held_out


def _read(name: str, threshold: float | None) -> list[Pair]:
    if name == "-":
        return read(sys.stdin.buffer, "standard input", threshold=threshold)
    try:
        with Path(name).open("rb") as lines:
            return read(lines, name, threshold=threshold)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error


def _check_folds(folds: int, queries: int) -> int:
    """The number of folds. Raises InputError when there are not as many queries."""
    if not 2 <= folds <= queries:
        raise InputError(
            f"--folds {folds}: 2 to {queries} are possible, as the pairs are of {queries} queries"
            if queries > 1
            else "all pairs are of one query: the figures need pairs of at least two"
        )
    return folds


def _data(
    pairs: Sequence[Pair], options: argparse.Namespace, environment: Mapping[str, str]
) -> Data:
    """The raw values, from the file or else from the server, and the pairs' labels and queries."""
    values = [pair.raw for pair in pairs if pair.raw is not None]
    of = options.of
    if len(values) < len(pairs):
        key = _key(options.api_key_file, environment)
        with RawValues(options.url, model=options.model, api_key=key) as server:
            kind = server.kind()
            if of and kind and of != kind:
                raise InputError(f"--of {of}: the server says that this model's is a {kind}")
            of = of or kind
            values = server.of(pairs, _Progress(len(pairs)))
    if of is None:
        _say("note: the raw values are taken for logits; say --of cosine for an embedding model")
    queries = {query: number for number, query in enumerate({p.query: None for p in pairs})}
    return Data(
        np.array(values, dtype=np.float64),
        np.array([pair.relevant for pair in pairs], dtype=np.int64),
        np.array([queries[pair.query] for pair in pairs], dtype=np.int64),
        of or "logit",
    )


def _key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key to send: the first in the file that is no digest, else the variable's."""
    if file is None:
        return environment.get(KEY_VARIABLE, "").strip() or None
    keys = read_plain(file)
    if not keys:
        raise InputError(f"{file} holds digests only, and a request needs the key itself")
    return keys[0]


class _Progress:
    """Says on standard error how many pairs are done: a moving line, or a few still ones."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._fifths = 0

    def __call__(self, done: int) -> None:
        text = f"  {done}/{self._pairs} pairs"
        if sys.stderr.isatty():
            end = "\n" if done == self._pairs else ""
            print(f"\r{text}", end=end, file=sys.stderr, flush=True)
        elif done * 5 // self._pairs > self._fifths:
            self._fifths = done * 5 // self._pairs
            _say(text)


def _say(text: object) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(error: object, status: int) -> int:
    _say(f"error: {error}")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("labelled", help="JSON lines; - is standard input")
    add("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    add("--model", help="default: the server's")
    add("--api-key-file", type=Path, help=f"default: ${KEY_VARIABLE}")
    add(
        "--of", choices=("logit", "cosine"), help="what a raw value is; default: as the server says"
    )
    add("--threshold", type=float, help="the grade from which on a label counts as relevant")
    add("--out", type=Path, default=Path("calibration"), help="folder; default: %(default)s")
    add("--folds", type=int, default=5, help="of cross-validation, by query; default: %(default)s")
    add("--seed", type=_seed, default=0, help="of folds and resamples; default: %(default)s")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError("a whole number of 0..4294967295 is needed")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
