"""Check a running server against reference scores: `python -m clients.verify MODEL --url URL`.

With --record it writes the server's scores down as the reference instead. A key is read from
$RERANK_API_KEY or --api-key-file. Exit status: 0 all checks hold, 1 one does not, 2 wrong arguments
or reference file, 3 the server could not be asked.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.address import add_fingerprint, check_fingerprint
from clients.ask import Fetch, NotAsked, Question, http_fetch, observe
from clients.compare import (
    PLAIN,
    TOLERANCES,
    Example,
    Reference,
    compare,
    find_name,
    known_dtype,
)
from clients.examples import EIGHT_PASSAGES, FOUR_PASSAGES, QUERY
from clients.reference import (
    BadReference,
    model_name,
    path_for,
    read_questions,
    read_reference,
    refuse_overwrite,
    write_reference,
)
from clients.report import Report

URL = "http://127.0.0.1:8000"
# Of a server's key file: `[NAME] KEY [requests=…] [pairs=…]`, and no key that is for metrics only.
_LINE = re.compile(r"(?:\S+\s+(?![a-z]+=[^=\s]))?(\S+)(?!.*\sonly=).*")
EXAMPLES: Sequence[Question] = ((QUERY, FOUR_PASSAGES), (QUERY, EIGHT_PASSAGES))


def verify(
    base_url: str,
    reference: Reference,
    *,
    model: str | None = None,
    api_key: str | None = None,
    fingerprint: str | None = None,
    tolerance: float | None = None,
    fetch: Fetch | None = None,
) -> Report:
    """Asks the server at `base_url` and compares. Raises NotAsked.

    `model` is the name to ask for, the reference's by default; `tolerance`, in score units, is
    used in place of that of the dtypes; `fetch` in place of HTTP.
    """
    questions = [(example.query, example.passages) for example in reference.examples]
    fetch = fetch or http_fetch(base_url, api_key, fingerprint=fingerprint)
    observed = observe(fetch, model or reference.model, questions)
    return compare(reference, observed, model=model, tolerance=tolerance)


def record(
    base_url: str,
    model: str,
    questions: Sequence[Question] = EXAMPLES,
    *,
    dtype: str | None = None,
    api_key: str | None = None,
    fingerprint: str | None = None,
    fetch: Fetch | None = None,
) -> tuple[Reference, Report]:
    """The server's scores as a reference, and how they hold against themselves: a server whose
    APIs disagree gives no reference. `dtype` is used in place of what the server tells.

    Raises NotAsked, and BadReference when the model is not served or nobody tells the dtype.
    """
    fetch = fetch or http_fetch(base_url, api_key, fingerprint=fingerprint)
    observed = observe(fetch, model, questions)
    name = find_name(model, observed.served)
    if name is None:
        served = ", ".join(observed.served)
        raise BadReference(f"{base_url} serves no {model!r}: name one of {served}")
    known = known_dtype(dtype or observed.dtype)
    if known is None:
        raise BadReference(
            f"{base_url} does not tell its dtype: pass --dtype, one of {', '.join(TOLERANCES)}"
        )
    at = f" at revision {observed.revision}" if observed.revision else ""
    examples = [
        Example(query, list(passages), list(scored.by_path[PLAIN]))
        for (query, passages), scored in zip(questions, observed.scored, strict=True)
    ]
    source = f"recorded with rerank-serve from {name}{at}"
    reference = Reference(model, known, source, examples)
    return reference, compare(reference, observed)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal that lacks a passage's characters
    try:
        status = _run(options, os.environ)
        sys.stdout.flush()
        return status
    except BadReference as error:
        return _refuse(options, error, 2)
    except NotAsked as error:
        return _refuse(options, error, 3)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads us has gone; nothing can be told any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    path = options.reference or path_for(options.model)
    server = {
        "api_key": api_key(options.api_key_file, environment),
        "fingerprint": options.fingerprint,
    }
    model = model_name(options.model)
    extra: dict[str, object] = {"reference": str(path), "url": options.url}
    if options.record:
        refuse_overwrite(path, force=options.force)
        reference, report = record(
            options.url, model, _questions(options, path), dtype=options.dtype, **server
        )
        if report.ok:
            write_reference(path, reference, force=options.force)
        extra["recorded"] = report.ok
    else:
        reference = _reference(path, options.model, model)
        report = verify(options.url, reference, model=model, tolerance=options.tolerance, **server)
    print(report.table())
    if options.record:
        print(f"recorded {path}" if report.ok else "nothing is recorded: a check does not hold")
    if options.json:
        print(json.dumps(report.as_json() | extra, allow_nan=False))
    return 0 if report.ok else 1


def _reference(path: Path, given: str, model: str) -> Reference:
    """The reference file, if there is one and it is of this model."""
    if not path.exists():
        raise BadReference(
            f"{path} is not there: record it from a server that you trust with"
            f" `python -m clients.verify {given} --record`, or name another with --reference"
        )
    reference = read_reference(path)
    if find_name(model, [reference.model]) is None:
        raise BadReference(
            f"{path}: model is {reference.model!r}, not {model!r}: name that model, or another file"
            " with --reference"
        )
    return reference


def _questions(options: argparse.Namespace, path: Path) -> Sequence[Question]:
    """What to record: one's own examples, else those of the file so far, else the usual two."""
    if options.examples:
        return read_questions(options.examples)
    if path.exists():
        return [(example.query, example.passages) for example in read_reference(path).examples]
    return EXAMPLES


def api_key(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """The first key of the file, which may be the server's own, else $RERANK_API_KEY's.

    Raises BadReference.
    """
    where, lines = "RERANK_API_KEY", [environment.get("RERANK_API_KEY", "")]
    if path is not None:
        try:
            where, lines = str(path), path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadReference(f"{path} cannot be read: {error}; check --api-key-file") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if path is not None:
        keys = [line[1] for line in map(_LINE.fullmatch, keys) if line]
    plain = [key for key in keys if not key.startswith("sha256:")]
    if (path or keys) and not plain:
        raise BadReference(f"{where} has no key as clients send it: write one a line, no digest")
    if plain and not plain[0].isprintable():
        raise BadReference(f"{where} has a character that no key can have: write the key anew")
    return plain[0] if plain else None


def _refuse(options: argparse.Namespace, error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps({"ok": False, "error": str(error), "status": status}))
    return status


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} must begin with http:// or https://")
    return text.rstrip("/")


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    check_fingerprint(parser, options)
    if not options.record and (options.examples or options.dtype or options.force):
        parser.error("--examples, --dtype and --force go with --record alone")
    if options.record and options.tolerance is not None:
        parser.error("--tolerance does not go with --record")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clients.verify", description=__doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a name that the server serves; also org/name or a YAML")
    add("--url", type=_url, default=URL, help="default: %(default)s")
    add("--reference", type=Path, metavar="FILE", help="default: configs/reference/MODEL.json")
    add("--tolerance", type=_tolerance, metavar="X", help="default: by the dtypes")
    add("--api-key-file", type=Path, metavar="FILE", help="its first key; or $RERANK_API_KEY")
    add_fingerprint(parser)
    add("--json", action="store_true", help="also print the report as JSON, on the last line")
    add("--record", action="store_true", help="write the server's scores to the reference file")
    add("--examples", type=Path, metavar="JSONL", help="record these {query, passages}")
    add("--dtype", choices=TOLERANCES, help="record this one; default: what the server tells")
    add("--force", action="store_true", help="let --record overwrite the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
