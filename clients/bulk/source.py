"""The records of an input: its queries, and the corpus that they choose from, if there is one."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clients.bulk.corpus import Corpus
from clients.bulk.journal import lock
from clients.bulk.records import Bad, Record, records
from clients.bulk.tables import read_rows, read_stream, readable

OnBad = Callable[[Bad], None]  # told of each line that cannot be used; may raise


@dataclass(frozen=True)
class Table:
    """A file, its format, one of tables.FORMATS, and what to call it in messages."""

    path: Path
    format: str
    name: str

    def digest(self) -> str:
        """Of the file's bytes. Raises WrongUse."""
        with readable(self.path), self.path.open("rb") as file:
            return f"{self.format}:{hashlib.file_digest(file, 'blake2b').hexdigest()[:32]}"

    def stamp(self) -> tuple[int, int, int]:
        """Changes when the file does, as far as its size and times tell. Raises WrongUse."""
        with readable(self.path):
            found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


class Source(AbstractContextManager["Source"]):
    """What is ranked: `records` gives it as often as it is asked, but from a `stream` once.

    `index` is where the corpus `passages` is laid out; `on_bad` is told of its unusable lines, and
    by `records` of those of the queries.
    """

    def __init__(
        self,
        queries: Table,
        passages: Table | None,
        *,
        index: Path,
        on_bad: OnBad,
        stream: BinaryIO | None = None,
    ) -> None:
        self._queries, self._stream = queries, stream
        self._corpus: Corpus | None = None
        self._stack = ExitStack()
        if passages:
            with ExitStack() as stack:
                self._corpus = stack.enter_context(Corpus(index))
                for bad in self._corpus.fill(
                    read_rows(passages.path, passages.format, passages.name)
                ):
                    on_bad(bad)
                self._stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def records(self, on_bad: OnBad) -> Iterator[Record]:
        """Every record, in the input's order. Raises WrongUse, and what `on_bad` raises."""
        lookup = self._corpus.lookup if self._corpus else None
        queries = self._queries
        rows = (
            read_stream(self._stream, queries.name, queries.format)
            if self._stream
            else read_rows(queries.path, queries.format, queries.name)
        )
        for item in records(rows, lookup):
            if isinstance(item, Bad):
                on_bad(item)
            else:
                yield item


@contextmanager
def spooled(stream: BinaryIO, path: Path) -> Iterator[None]:
    """Keeps a stream as a file for a while, so that it can be read again.

    Raises WrongUse while another run reads a stream of its own from there, and OSError.
    """
    with path.open("ab") as file:  # not "wb", which would empty what that run reads
        lock(file, path)
        try:
            file.truncate(0)
            shutil.copyfileobj(stream, file, 2**20)
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)
