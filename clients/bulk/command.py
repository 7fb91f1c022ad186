"""Rank whole files: `python -m clients rerank QUERIES [--passages FILE] [--out OUT]`.

The files are jsonl, csv, tsv or parquet, by their suffix; `-` is stdin or stdout. A line is

    {"query": …, "passages": ["…", {"id": …, "text": …}, …]}   with its own passages, or
    {"query": …, "passage": …}            a pair: consecutive ones of a query belong together, or
    {"query": …, "candidates": [id, …]}   of --passages FILE, whose lines are {"id": …, "text": …};
                                          without candidates: all of FILE, 10,000 at most,
                                          and no passages of its own

each with "query_id" if wanted, a pair also with "passage_id". csv and tsv have a header, and lists
as JSON in their cell. Other fields are ignored. A jsonl OUT has a line for each query, in the
input's order, with its passages best first: {"query_id", "query", "results": [{"index", "id",
"score", "raw_score", "truncated"}, …]}. A passage that was scored in parts (--max-chunks-per-doc)
also has "chunk": {"index", "count", "start", "end"}, the part that counted and its characters. The
other formats have a row for each pair, with its rank, and columns chunk_start and chunk_end.

While it runs, OUT.part keeps every answer. After Ctrl-C, a crash or a kill the same command goes
on from there: nothing that was kept is asked again. OUT appears when all of it is there.

Exit status: 0 done (with --on-error skip also when lines were passed over), 1 the server failed or
a file could not be written, 2 wrong arguments or input, 130 interrupted. After any but 0 the same
command goes on.
"""

import argparse
import io
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TextIO

from clients.address import told
from clients.bulk.dispatch import Stop, Stopped
from clients.bulk.job import BadInput, Interrupted, Run, beside
from clients.bulk.options import job_of, positive, scoring_of, seconds, some_seconds
from clients.bulk.progress import Progress
from clients.bulk.server import Server
from clients.bulk.tables import FORMATS, WrongUse
from clients.errors import RerankError
from clients.requests_client import RerankClient
from clients.retry import Retry

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
    add("--top-n", type=positive, metavar="N", help="write the best N of a query; default: all")
    add("--texts", action="store_true", help="write the passages' texts too")
    add("--on-error", choices=("fail", "skip"), default="fail", help="at a bad line; default: fail")
    add("--restart", action="store_true", help="begin anew: forget OUT.part, write over OUT")
    add("--progress", action=argparse.BooleanOptionalAction, help="default: on a terminal")
    asking = parser.add_argument_group("how it asks").add_argument
    asking("--use-llm", action="store_true", help="the server's LLM reranker")
    asking("--instruction", metavar="TEXT", help="in place of an LLM reranker's own")
    asking("--max-tokens-per-doc", type=positive, metavar="N")
    asking("--max-chunks-per-doc", type=positive, metavar="N")
    asking("--batch", type=positive, default=256, metavar="N", help="pairs a request; default: 256")
    asking(
        "--concurrency", type=positive, default=4, metavar="N", help="requests at once; default: 4"
    )
    asking(
        "--timeout",
        type=some_seconds,
        default=300,
        metavar="S",
        help="of each wait: to connect, for the answer, between its bytes; default: 300",
    )
    asking(
        "--patience",
        type=seconds,
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
        job = job_of(options)
        server = _server(options, stop)
        work = Run(job, server, stop, progress)
        with progress:
            _work(work)
        server.close()
        print(_summary(work), file=sys.stderr)
        return 0
    except BadInput as error:
        hint = "; --on-error skip passes over such lines"
        return _end(f"error: {error}{hint}", options, work, 2)
    except WrongUse as error:  # the same command would end the same way
        return _end(f"error: {error}", options, None, 2)
    except (Interrupted, Stopped):
        return _end("interrupted", options, work, 130)
    except RerankError as error:
        return _end(f"error: {told(error, options.url)}", options, work, 1)
    except BrokenPipeError:  # whoever reads us has gone; nothing can be told any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _end(f"error: {error}", options, work, 1)


def _work(work: Run) -> None:
    """Raises as `Run` does."""
    stdin = io.BytesIO() if work.job.queries else _binary("stdin", sys.stdin)
    if work.job.out is not None:
        work.to_file(work.job.out, stdin)
        return
    stdout = _binary("stdout", sys.stdout)
    with tempfile.TemporaryDirectory(prefix="rerank-") as folder:
        work.to_stream(stdout, stdin, Path(folder, "corpus"))


def _binary(name: str, stream: TextIO | None) -> BinaryIO:
    """The bytes of one of Python's streams, which are None when whoever runs us closed them."""
    if stream is None:
        raise WrongUse(f"{name} is closed: name a file")
    return stream.buffer


def _on_signals(stop: Stop) -> None:
    """Ctrl-C and SIGTERM stop the run; a second one leaves at once, which loses nothing kept."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            os._exit(130)
        stop.set()
        with suppress(OSError):  # whoever reads it may have been stopped too
            os.write(2, LEFT)

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


def _server(options: argparse.Namespace, stop: Stop) -> Server:
    def connect(retry: Retry) -> RerankClient:
        return RerankClient(
            options.url,
            api_key=options.api_key,
            fingerprint=options.fingerprint,
            timeout_s=options.timeout,
            retry=retry,
            sleep=stop.sleep,
        )

    patient = Retry(tries=ENDLESS, budget_s=options.patience)
    return Server(connect, scoring_of(options), patient)
