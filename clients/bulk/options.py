"""Arguments to a Job: what each may be, and that no file of the user's is in the way."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from clients.bulk.job import BESIDE, Job, beside
from clients.bulk.source import Table
from clients.bulk.tables import WrongUse, format_of, load_parquet
from clients.wire import LONGEST_S, Options


def job_of(options: argparse.Namespace) -> Job:
    """What a command line asks for. Raises WrongUse."""
    if options.passages == "-":
        raise WrongUse("--passages must be a file: only the queries may come from stdin")
    out = None if options.out == "-" else Path(options.out)
    job = Job(
        queries=None if options.queries == "-" else _table(options.queries, options.format),
        passages=_passages(options),
        format=format_of(options.queries, options.format),
        out=out,
        out_format=format_of(options.out, options.out_format),
        top_n=options.top_n,
        with_texts=options.texts,
        batch=options.batch,
        concurrency=options.concurrency,
        skip=options.on_error == "skip",
        restart=options.restart,
        scoring=scoring_of(options),
    )
    _check(job)
    return job


def _check(job: Job) -> None:
    tables = [table for table in (job.queries, job.passages) if table]
    if "parquet" in (job.out_format, job.format, *(table.format for table in tables)):
        load_parquet()
    if job.out is None:
        if job.out_format == "parquet" or (job.queries is None and job.format == "parquet"):
            raise WrongUse("parquet cannot be streamed: name a file with --out")
        return
    _check_out(job.out, [table.path for table in tables])


def _check_out(out: Path, inputs: Iterable[Path]) -> None:
    if not out.parent.is_dir():
        raise WrongUse(f"{out.parent} is no folder: make it first")
    if out.exists() and not out.is_file():
        raise WrongUse(f"{out} is no file that can be written over: name another, or - for stdout")
    written = {path.resolve() for path in (out, *(beside(out, what) for what in BESIDE))}
    for path in inputs:
        if path.resolve() in written:
            raise WrongUse(f"{path} is an input too: write to another file")


def _table(path: str, format: str | None) -> Table:
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise WrongUse(
            f"{path} can be read only once, and a run reads it again: name a file, or give the"
            " queries to stdin, as -"
        )
    return Table(Path(path), format_of(path, format), path)


def _passages(options: argparse.Namespace) -> Table | None:
    """The corpus's format goes by its suffix; --format is for a suffix that says nothing."""
    if options.passages is None:
        return None
    try:
        return _table(options.passages, None)
    except WrongUse:
        return _table(options.passages, options.format)


def scoring_of(options: argparse.Namespace) -> Options:
    """What a command line asks of the server with every request."""
    return {
        "model": options.model,
        "use_llm": options.use_llm or None,
        "instruction": options.instruction,
        "max_tokens_per_doc": options.max_tokens_per_doc,
        "max_chunks_per_doc": options.max_chunks_per_doc,
    }


def positive(text: str) -> int:
    """Raises ArgumentTypeError."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return value


def seconds(text: str) -> float:
    """Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, {LONGEST_S:,} at most")
    return value


def some_seconds(text: str) -> float:
    """As `seconds`, and not 0. Raises ArgumentTypeError."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value
