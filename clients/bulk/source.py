"""The records of an input: its queries, and the corpus that they choose from, if there is one."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clients.bulk.corpus import Corpus
from clients.bulk.records import Bad, Record, records
from clients.bulk.tables import WrongUse, read_rows, read_stream

OnBad = Callable[[Bad], None]  # told of each line that cannot be used; may raise


@dataclass(frozen=True)
class Table:
    """A file, its format, one of tables.FORMATS, and what to call it in messages."""

    path: Path
    format: str
    name: str

    def digest(self) -> str:
        """Of the file's bytes. Raises WrongUse."""
        try:
            with self.path.open("rb") as file:
                return f"{self.format}:{hashlib.file_digest(file, 'blake2b').hexdigest()[:32]}"
        except OSError as error:
            raise WrongUse(f"{self.path} cannot be read: {error.strerror or error}") from error


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


def spool(stream: BinaryIO, path: Path) -> None:
    """Keeps a stream as a file, so that it can be read again. Raises OSError."""
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 2**20)
