"""Passages by id, on disk: a corpus may be larger than memory.

They are laid into an SQLite file, which needs no more than its page cache whatever the corpus's
format and size. The file is a copy for one run, without a journal or syncs of its own.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from clients.bulk.records import Bad, Passage, Row, Unusable, corpus_passage

MOST_FOR_ALL = 10_000  # passages that a query without candidates is ranked against
VARIABLES = 500  # in one statement of SQLite
ROWS = 1000  # put in at once


class Corpus:
    """An index at `path`, made anew. Use as a context manager; it removes the file.

    Every method raises OSError when the file cannot be written or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        with _mapped(path):
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = OFF")
            self._base.execute("PRAGMA synchronous = OFF")
            self._base.execute("CREATE TABLE passages (id TEXT PRIMARY KEY, text TEXT NOT NULL)")
        self._count = 0

    def __enter__(self) -> "Corpus":
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._count

    def fill(self, rows: Iterable[Row | Bad]) -> Iterator[Bad]:
        """Takes in all rows, and yields those that cannot be used."""
        rows = iter(rows)
        while chunk := list(islice(rows, ROWS)):
            with _mapped(self._path):
                self._base.execute("BEGIN")
                bad = self._take(chunk)
                self._base.execute("COMMIT")
            yield from bad

    def _take(self, chunk: Sequence[Row | Bad]) -> list[Bad]:
        bad = []
        for row in chunk:
            if isinstance(row, Bad):
                bad.append(row)
                continue
            try:
                id, text = corpus_passage(row.fields)
                self._base.execute("INSERT INTO passages VALUES (?, ?)", (id, text))
                self._count += 1
            except Unusable as error:
                bad.append(Bad(row.where, str(error)))
            except sqlite3.IntegrityError:
                bad.append(Bad(row.where, f"the id {id!r} is there already"))
        return bad

    def lookup(self, ids: Sequence[str] | None) -> Sequence[Passage]:
        """The passages of `ids`, in their order, or all. Raises Unusable."""
        with _mapped(self._path):
            return self._all() if ids is None else self._some(ids)

    def _some(self, ids: Sequence[str]) -> Sequence[Passage]:
        texts: dict[str, str] = {}
        for start in range(0, len(ids), VARIABLES):
            some = ids[start : start + VARIABLES]
            marks = ",".join("?" * len(some))
            texts.update(
                self._base.execute(f"SELECT id, text FROM passages WHERE id IN ({marks})", some)
            )
        for id in ids:
            if id not in texts:
                raise Unusable(f"candidates names {id!r}, which is not in the file of passages")
        return [Passage(texts[id], id) for id in ids]

    def _all(self) -> Sequence[Passage]:
        if not self._count:
            raise Unusable("the file of passages is empty")
        if self._count > MOST_FOR_ALL:
            raise Unusable(
                f"it has no `candidates`, and {self._count} passages are too many to rank for each"
                f" query (more than {MOST_FOR_ALL}): name some"
            )
        found = self._base.execute("SELECT id, text FROM passages ORDER BY rowid")
        return [Passage(text, id) for id, text in found]


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """Maps what SQLite raises of its file: a disk that is full, a folder that is not ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
