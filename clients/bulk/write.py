"""Rankings to files: jsonl has a line for each query, the others a row for each pair."""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from clients.bulk.plan import Result
from clients.bulk.tables import DELIMITERS, WrongUse, load_parquet
from clients.wire import Ranked

COLUMNS: Mapping[str, str] = {  # of a pair's row, and their types in parquet
    "query_id": "string",
    "query": "string",
    "rank": "int64",  # from 1
    "index": "int64",  # the passage's place in the input, from 0
    "passage_id": "string",
    "score": "float64",
    "raw_score": "float64",
    "truncated": "bool",
    "stage": "string",
    "chunk_start": "int64",  # of the part that counted, where there were parts
    "chunk_end": "int64",
    "passage": "string",
}
ROW_GROUP = 10_000


class Writer(ABC):
    """Writes results to an open file; `with_texts` puts the passages into them."""

    def __init__(self, file: BinaryIO, *, with_texts: bool) -> None:
        self._file, self._with_texts = file, with_texts

    @abstractmethod
    def write(self, result: Result) -> None:
        """One record's ranking, as far as it goes."""

    def close(self) -> None:  # noqa: B027  # most have nothing left
        """Writes what is left. The file stays open."""


class JsonLines(Writer):
    """`{query_id, query, results: [{index, id, score, raw_score, truncated, stage, chunk, text}]}`,
    of which those that are not known are left out."""

    def write(self, result: Result) -> None:
        record = result.record
        line = {
            **({} if record.query_id is None else {"query_id": record.query_id}),
            "query": record.query,
            "results": [self._item(result, item) for item in result.items],
        }
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def _item(self, result: Result, item: Ranked) -> dict[str, object]:
        id = result.record.passages[item.index].id
        return {
            "index": item.index,
            **({} if id is None else {"id": id}),
            "score": item.score,
            "raw_score": item.raw_score,
            "truncated": item.truncated,
            **({} if item.stage is None else {"stage": item.stage}),
            **({} if item.chunk is None else {"chunk": asdict(item.chunk)}),
            **({"text": item.text} if self._with_texts else {}),
        }


class Separated(Writer):
    """csv or tsv: COLUMNS, `passage` only with texts."""

    def __init__(self, file: BinaryIO, *, delimiter: str, with_texts: bool) -> None:
        super().__init__(file, with_texts=with_texts)
        self._text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = partial(csv.writer, self._text, delimiter=delimiter, lineterminator="\n")
        self._csv, self._quoting = writer(), writer(quoting=csv.QUOTE_ALL)
        self._csv.writerow(columns(with_texts))

    def write(self, result: Result) -> None:
        for row in rows(result, self._with_texts):
            # Python's csv leaves a lone \r bare, and its reader ends a row there.
            is_odd = any(isinstance(value, str) and "\r" in value for value in row)
            (self._quoting if is_odd else self._csv).writerow(_cell(value) for value in row)

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


class Parquet(Writer):
    """Parquet: COLUMNS, `passage` only with texts."""

    def __init__(self, file: BinaryIO, *, with_texts: bool) -> None:
        super().__init__(file, with_texts=with_texts)
        parquet = load_parquet()
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

        fields = [(name, COLUMNS[name]) for name in columns(with_texts)]
        types = {"bool": pyarrow.bool_(), "float64": pyarrow.float64()}
        types |= {"int64": pyarrow.int64(), "string": pyarrow.string()}
        self._schema = pyarrow.schema([(name, types[type]) for name, type in fields])
        self._table, self._rows = pyarrow.table, list[Sequence[object]]()
        self._parquet = parquet.ParquetWriter(file, self._schema)

    def write(self, result: Result) -> None:
        self._rows.extend(rows(result, self._with_texts))
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(self._schema.names, zip(*self._rows, strict=True), strict=True)
            table = {name: list(values) for name, values in columns}
            self._parquet.write_table(self._table(table, schema=self._schema))
            self._rows.clear()


def columns(with_texts: bool) -> list[str]:
    """The names of a row's values."""
    return [name for name in COLUMNS if with_texts or name != "passage"]


def rows(result: Result, with_texts: bool) -> Iterator[Sequence[object]]:
    """A row for each pair, as `columns` says. Ids are texts, since a column has one type."""
    record = result.record
    for rank, item in enumerate(result.items, 1):
        yield (
            _text(record.query_id),
            record.query,
            rank,
            item.index,
            _text(record.passages[item.index].id),
            item.score,
            item.raw_score,
            item.truncated,
            item.stage,
            item.chunk and item.chunk.start,
            item.chunk and item.chunk.end,
            *([item.text] if with_texts else []),
        )


def _text(id: object) -> str | None:
    return None if id is None else str(id)


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def open_writer(file: BinaryIO, format: str, *, with_texts: bool) -> Writer:
    """The writer of a format. Raises WrongUse when it needs what is not installed."""
    if format == "parquet":
        return Parquet(file, with_texts=with_texts)
    if format == "jsonl":
        return JsonLines(file, with_texts=with_texts)
    if format in DELIMITERS:
        return Separated(file, delimiter=DELIMITERS[format], with_texts=with_texts)
    raise WrongUse(f"there is no format {format!r}")


def write_whole(path: Path, format: str, results: Iterable[Result], *, with_texts: bool) -> None:
    """Writes a file that has its name only when all of it is on the disk. Raises OSError."""
    unfinished = path.with_name(path.name + ".tmp")  # no other may write it: see the journal's lock
    try:
        with unfinished.open("wb") as file:
            writer = open_writer(file, format, with_texts=with_texts)
            for result in results:
                writer.write(result)
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
