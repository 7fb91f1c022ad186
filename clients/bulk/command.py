"""Rank whole files: `python -m clients rerank QUERIES [--passages FILE] [--out OUT]`.

The files are jsonl, csv, tsv or parquet, by their suffix; `-` is stdin or stdout. A line is

    {"query": …, "passages": ["…", {"id": …, "text": …}, …]}   with its own passages, or
    {"query": …, "passage": …}            a pair: consecutive ones of a query belong together, or
    {"query": …, "candidates": [id, …]}   of --passages FILE, whose lines are {"id": …, "text": …};
                                          without candidates: all of FILE, 10,000 at most

each with "query_id" if wanted, a pair also with "passage_id". csv and tsv have a header, and lists
as JSON in their cell. Other fields are ignored. A jsonl OUT has a line for each query, in the
input's order, with its passages best first: {"query_id", "query", "results": [{"index", "id",
"score", "raw_score", "truncated"}, …]}. The other formats have a row for each pair, with its rank.

While it runs, OUT.part keeps every answer. After Ctrl-C, a crash or a kill the same command goes
on from there: nothing that was kept is asked again. OUT appears when all of it is there.

Exit status: 0 done (with --on-error skip also when lines were passed over), 1 the server failed or
a file could not be written, 2 wrong arguments or input, 130 interrupted. After any but 0 the same
command goes on.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from clients.bulk.dispatch import Stop, Stopped
from clients.bulk.job import BadInput, Interrupted, Job, Run, beside
from clients.bulk.progress import Progress
from clients.bulk.server import Server
from clients.bulk.source import Table
from clients.bulk.tables import FORMATS, WrongUse, format_of, load_parquet
from clients.errors import RerankError
from clients.requests_client import RerankClient
from clients.retry import Retry
from clients.wire import RankOptions

ENDLESS = 10**6  # tries: patience alone bounds them
LEFT = b"\nstopping: waiting for the requests on their way; once more to leave at once\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command alone."""
    add = parser.add_argument
    add("queries", metavar="QUERIES", help="a file, or - for stdin")
    add("--passages", metavar="FILE", help="the texts that `candidates` name")
    add("--out", default="-", metavar="OUT", help="default: - for stdout, which cannot be resumed")
    add("--format", choices=FORMATS, help="of the input; default: by suffix, jsonl for stdin")
    add("--out-format", choices=FORMATS, help="default: by suffix, jsonl for stdout")
    add("--top-n", type=_positive, metavar="N", help="write the best N of a query; default: all")
    add("--texts", action="store_true", help="write the passages' texts too")
    add("--on-error", choices=("fail", "skip"), default="fail", help="at a bad line; default: fail")
    add("--restart", action="store_true", help="begin anew: forget OUT.part, write over OUT")
    add("--progress", action=argparse.BooleanOptionalAction, help="default: on a terminal")
    asking = parser.add_argument_group("how it asks").add_argument
    asking("--use-llm", action="store_true", help="the server's LLM reranker")
    asking("--instruction", metavar="TEXT", help="in place of an LLM reranker's own")
    asking("--max-tokens-per-doc", type=_positive, metavar="N")
    asking("--max-chunks-per-doc", type=_positive, metavar="N")
    asking(
        "--batch", type=_positive, default=256, metavar="N", help="pairs a request; default: 256"
    )
    asking(
        "--concurrency", type=_positive, default=4, metavar="N", help="requests at once; default: 4"
    )
    asking("--timeout", type=_seconds, default=300, metavar="S", help="of a request; default: 300")
    asking(
        "--patience",
        type=_seconds,
        default=600,
        metavar="S",
        help="how long to try a request again while the server is busy or gone; default: 600",
    )


def run(options: argparse.Namespace) -> int:
    """Runs, and returns the exit status."""
    stop, progress = Stop(), Progress(options.progress)
    _on_signals(stop)
    work: Run | None = None
    try:
        job = _job(options)
        server = _server(options, stop)
        work = Run(job, server, stop, progress)
        with progress:
            _work(work)
        server.close()
        print(_summary(work), file=sys.stderr)
        return 0
    except (WrongUse, BadInput) as error:
        hint = "; --on-error skip passes over such lines" * isinstance(error, BadInput)
        return _end(f"error: {error}{hint}", options, work, 2)
    except (Interrupted, Stopped):
        return _end("interrupted", options, work, 130)
    except RerankError as error:
        return _end(f"error: {options.url}: {error}", options, work, 1)
    except BrokenPipeError:  # whoever reads us has gone; nothing can be told any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _end(f"error: {error}", options, work, 1)


def _work(work: Run) -> None:
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    if work.job.out is not None:
        work.to_file(work.job.out, stdin)
        return
    with tempfile.TemporaryDirectory(prefix="rerank-") as folder:
        work.to_stream(stdout, stdin, Path(folder, "corpus"))


def _on_signals(stop: Stop) -> None:
    """Ctrl-C and SIGTERM stop the run; a second one leaves at once, which loses nothing kept."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            os._exit(130)
        os.write(2, LEFT)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def _end(words: str, options: argparse.Namespace, work: Run | None, status: int) -> int:
    """Says why the run ended and how to go on."""
    print(words, file=sys.stderr)
    if work and work.kept and work.job.out:
        again = "the same command without --restart" if options.restart else "the same command"
        of = f"{work.kept} of {work.total} pairs are kept in {beside(work.job.out, 'part')}"
        print(f"{of}: {again} goes on from there", file=sys.stderr)
    return status


def _summary(work: Run) -> str:
    skipped = f"; skipped {work.skipped}" if work.skipped else ""
    of = "" if work.total is None else f", {work.total} pairs"
    return f"ranked {work.queries} queries{of}{skipped}"


def _job(options: argparse.Namespace) -> Job:
    """Raises WrongUse."""
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
        scoring=_scoring(options),
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
    if not job.out.parent.is_dir():
        raise WrongUse(f"{job.out.parent} is no folder: make it first")
    if any(table.path.absolute() == job.out.absolute() for table in tables):
        raise WrongUse(f"{job.out} is an input too: write to another file")


def _table(path: str, format: str | None) -> Table:
    return Table(Path(path), format_of(path, format), path)


def _passages(options: argparse.Namespace) -> Table | None:
    """The corpus's format goes by its suffix; --format is for a suffix that says nothing."""
    if options.passages is None:
        return None
    try:
        return _table(options.passages, None)
    except WrongUse:
        return _table(options.passages, options.format)


def _scoring(options: argparse.Namespace) -> RankOptions:
    return {
        "model": options.model,
        "use_llm": options.use_llm or None,
        "instruction": options.instruction,
        "max_tokens_per_doc": options.max_tokens_per_doc,
        "max_chunks_per_doc": options.max_chunks_per_doc,
    }


def _server(options: argparse.Namespace, stop: Stop) -> Server:
    def connect(retry: Retry) -> RerankClient:
        return RerankClient(
            options.url,
            api_key=options.api_key,
            timeout_s=options.timeout,
            retry=retry,
            sleep=stop.sleep,
        )

    patient = Retry(tries=ENDLESS, budget_s=options.patience)
    return Server(connect, _scoring(options), patient)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds")
    return value
