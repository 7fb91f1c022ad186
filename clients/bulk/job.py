"""The story of a run: look through the input, ask what is not known yet, write it down whole.

To a file OUT it goes in three passes over the input, so that no pass needs more than a few records
in memory: the first finds bad lines before anything is asked, and counts; the second asks, and
keeps every reply in the journal OUT.part; the third joins input and journal into OUT, which appears
when it is complete. To stdout it goes record by record, in order, and cannot be gone on with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from clients.bulk.dispatch import Stop, dispatch
from clients.bulk.journal import Journal
from clients.bulk.plan import Exchange, Reply, Request, Result, in_order, join, requests_of
from clients.bulk.progress import Progress
from clients.bulk.records import Bad
from clients.bulk.server import Scorer
from clients.bulk.source import OnBad, Source, Table, spooled
from clients.bulk.tables import WrongUse
from clients.bulk.write import open_writer, write_whole
from clients.errors import BadRequest, TooLarge

VERSION = 2  # of the journal
BESIDE = ("part", "stdin", "corpus", "tmp")  # what a run writes beside OUT, named as OUT.part


class BadInput(Exception):
    """A line of the input that cannot be used, or that the server refuses; `file:line: reason`."""


class Interrupted(Exception):
    """The run was told to stop before its end."""


@dataclass(frozen=True)
class Job:
    """What to do. `out` None is stdout; `stdin` is read where `queries` is None.

    `batch`: most pairs in a request; `concurrency`: requests at once; `skip`: pass over what cannot
    be used; `scoring`: what else the scores depend on.
    """

    queries: Table | None
    passages: Table | None
    format: str  # of stdin
    out: Path | None
    out_format: str
    top_n: int | None
    with_texts: bool
    batch: int
    concurrency: int
    skip: bool
    restart: bool
    scoring: Mapping[str, object]


@dataclass
class Run:
    """One run of `job`, and what it has done so far."""

    job: Job
    scorer: Scorer
    stop: Stop
    progress: Progress
    queries: int = 0  # that were written
    skipped: int = 0  # lines and queries
    total: int | None = None  # pairs of the input, if known
    kept: int = 0  # pairs in the journal
    batch: int | None = None  # None: records go whole

    # -- to a file -------------------------------------------------------------------------------

    def to_file(self, out: Path, stdin: BinaryIO) -> None:
        """Raises BadInput, WrongUse, Interrupted, RerankError, OSError."""
        part = beside(out, "part")
        if out.exists() and not part.exists() and not self.job.restart:
            raise WrongUse(f"{out} is there already: --restart writes over it")
        if self.job.queries is not None:
            self._rank(out, part, self.job.queries)
            return
        spool = beside(out, "stdin")
        with spooled(stdin, spool):
            self._rank(out, part, Table(spool, self.job.format, "stdin"))

    def _rank(self, out: Path, part: Path, queries: Table) -> None:
        tables = [table for table in (queries, self.job.passages) if table]
        stamps = [table.stamp() for table in tables]
        header = self._header(queries)
        with (
            Journal(part, header, restart=self.job.restart) as journal,
            self._source(queries, beside(out, "corpus")) as source,
        ):
            count = self._survey(source, journal)
            self._ask(source, journal)
            if journal.count < count:
                raise Interrupted
            results = self._results(_exchanges(self._requests(source), journal))
            results = _of_steady(results, tables, stamps)
            write_whole(out, self.job.out_format, results, with_texts=self.job.with_texts)
            part.unlink()

    def _header(self, queries: Table) -> Mapping[str, object]:
        passages = self.job.passages
        return {
            "journal's version": VERSION,
            "queries": queries.digest(),
            "passages": passages.digest() if passages else None,
            "options": {**self.job.scoring, "batch": self.job.batch},
            "server's model": self._identify(),
        }

    def _survey(self, source: Source, journal: Journal) -> int:
        """Reads all input once; returns how many requests it makes. Shows the bar."""
        count = total = kept = 0
        for request in self._requests(source, self._on_bad):
            self._check()
            count += 1
            total += request.pairs
            kept += request.pairs * journal.has(request.n)
        self.total, self.kept = total, kept
        self.progress.start(total, kept)
        return count

    def _ask(self, source: Source, journal: Journal) -> None:
        todo = (request for request in self._requests(source) if not journal.has(request.n))
        for exchanges in self._dispatch(todo):
            journal.append([exchange.reply for exchange in exchanges])
            pairs = sum(exchange.request.pairs for exchange in exchanges)
            self.kept += pairs
            self.progress.add(pairs)

    # -- to stdout -------------------------------------------------------------------------------

    def to_stream(self, stdout: BinaryIO, stdin: BinaryIO, index: Path) -> None:
        """Raises as `to_file`. `index` is where a corpus may be laid out."""
        self._identify()
        stream = stdin if self.job.queries is None else None
        queries = self.job.queries or Table(Path("-"), self.job.format, "stdin")
        with self._source(queries, index, stream) as source:
            tell = self._on_bad
            if stream is None:
                self.total = 0
                for request in self._requests(source, self._on_bad):
                    self._check()
                    self.total += request.pairs
                tell = _ignore
            self.progress.start(self.total, 0)
            writer = open_writer(stdout, self.job.out_format, with_texts=self.job.with_texts)
            for result in self._results(in_order(self._flat(self._requests(source, tell)))):
                writer.write(result)
                stdout.flush()
            writer.close()
        self._check()

    def _flat(self, requests: Iterator[Request]) -> Iterator[Exchange]:
        for exchanges in self._dispatch(requests):
            self.progress.add(sum(exchange.request.pairs for exchange in exchanges))
            yield from exchanges

    # -- both ------------------------------------------------------------------------------------

    def _identify(self) -> Mapping[str, object]:
        identity = self.scorer.identity()
        self.batch = None if identity.get("cascade") else self.job.batch
        return identity

    def _source(self, queries: Table, index: Path, stream: BinaryIO | None = None) -> Source:
        passages = self.job.passages
        return Source(queries, passages, index=index, on_bad=self._on_bad, stream=stream)

    def _requests(self, source: Source, tell: OnBad | None = None) -> Iterator[Request]:
        """All requests; bad lines are told to `tell` in one pass of several."""
        return requests_of(source.records(tell or _ignore), self.batch)

    def _dispatch(self, requests: Iterator[Request]) -> Iterator[list[Exchange]]:
        return dispatch(requests, self._reply, concurrency=self.job.concurrency, stop=self.stop)

    def _reply(self, request: Request) -> Reply:
        try:
            ranking = self.scorer.rank(request.record.query, request.texts())
        except (BadRequest, TooLarge) as error:
            if error.param in self.job.scoring:  # no line's fault: every other would fare the same
                raise WrongUse(f"the server refuses what was asked of it ({error})") from error
            if self.job.skip:
                return Reply(request.n, refusal=str(error))
            raise BadInput(f"{request.record.where}: the server refuses it ({error})") from error
        return Reply(request.n, [replace(item, text="") for item in ranking])

    def _results(self, exchanges: Iterator[Exchange]) -> Iterator[Result]:
        """The results that are written, counted, each cut to `top_n`."""
        for result in join(exchanges):
            if result.refusal is None:
                self.queries += 1
                yield replace(result, items=result.items[: self.job.top_n])
            else:
                reason = f"the server refuses it ({result.refusal})"
                self._on_bad(Bad(result.record.where, reason))

    def _on_bad(self, bad: Bad) -> None:
        if not self.job.skip:
            raise BadInput(f"{bad.where}: {bad.reason}")
        self.skipped += 1
        self.progress.say(f"skipped: {bad.where}: {bad.reason}")

    def _check(self) -> None:
        if self.stop.asked:
            raise Interrupted


def beside(out: Path, what: str) -> Path:
    """A file of the run itself, one of BESIDE, which goes when it is done."""
    return out.with_name(f"{out.name}.{what}")


def _exchanges(requests: Iterator[Request], journal: Journal) -> Iterator[Exchange]:
    for request, reply in zip(requests, in_order(journal.replies()), strict=True):
        yield Exchange(request, reply)


def _of_steady(
    results: Iterator[Result], tables: Sequence[Table], stamps: Sequence[object]
) -> Iterator[Result]:
    """The results, of files that stayed as they were: others would get scores that are not theirs.

    Raises WrongUse.
    """
    mismatch: ValueError | None = None
    try:
        yield from results
    except ValueError as error:
        mismatch = error
    for table, stamp in zip(tables, stamps, strict=True):
        if table.stamp() != stamp:
            raise WrongUse(f"{table.name} was changed meanwhile: begin anew with --restart")
    if mismatch:
        raise mismatch


def _ignore(bad: Bad) -> None:
    """A line that was told of by an earlier pass."""
