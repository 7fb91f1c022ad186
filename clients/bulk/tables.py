"""Files to rows: jsonl, csv, tsv, parquet. Every reader streams, and names the line of each row."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from clients.bulk.records import FIELDS, Bad, Row

FORMATS = ("jsonl", "csv", "tsv", "parquet")
DELIMITERS: Mapping[str, str] = {"csv": ",", "tsv": "\t"}
PARQUET_ROWS = 512  # read at a time
FOREIGN = (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError)  # pyarrow's
LONGEST_CELL = 2**30  # characters; Python's csv has a limit, and 128 Ki by default


class WrongUse(Exception):
    """An argument, a file or its form that cannot be used. The message says what to do."""


def format_of(path: str, given: str | None = None) -> str:
    """The format of a file: `given`, or by its suffix; jsonl of `-`. Raises WrongUse."""
    if given:
        return given
    if path == "-":
        return "jsonl"
    suffix = Path(path).suffix.lower().lstrip(".")
    name = {"ndjson": "jsonl"}.get(suffix, suffix)
    if name not in FORMATS:
        raise WrongUse(f"{path}: the suffix names none of {', '.join(FORMATS)}: give its --format")
    return name


def read_rows(path: Path, format: str, name: str) -> Iterator[Row | Bad]:
    """The rows of a file, called `name`. Raises WrongUse where it cannot be read at all."""
    with readable(path):
        if format == "parquet":
            yield from _parquet(path, name)
            return
        with path.open("rb") as file:
            yield from read_stream(file, name, format)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Maps what the system says of a file to WrongUse."""
    try:
        yield
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror or error}") from error


def read_stream(file: BinaryIO, name: str, format: str) -> Iterator[Row | Bad]:
    """The rows of an open jsonl, csv or tsv, which is read once. Raises WrongUse."""
    if format == "jsonl":
        return _jsonl(file, name)
    if format in DELIMITERS:
        return _separated(file, name, DELIMITERS[format])
    raise WrongUse("parquet cannot be read from a stream: name a file")


def _jsonl(file: BinaryIO, name: str) -> Iterator[Row | Bad]:
    for number, line in enumerate(file, 1):
        where = f"{name}:{number}"
        line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
        if not line:
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Bad(where, f"it is not JSON ({error})")
            continue
        if isinstance(fields, dict):
            yield Row(where, fields)
        else:
            yield Bad(where, "it must be a JSON object")


def _separated(file: BinaryIO, name: str, delimiter: str) -> Iterator[Row | Bad]:
    csv.field_size_limit(LONGEST_CELL)
    # A byte that is no UTF-8 becomes a lone surrogate, which its field's reader refuses by line.
    text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header: Sequence[str] | None = None
        while True:
            where = f"{name}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:  # without it the next row would be taken for it
                    raise WrongUse(f"{where}: it is no header ({error})") from error
                yield Bad(where, f"it is not a row ({error})")
                continue
            if header is None:
                header = _header(cells, name) if cells else None
            elif cells:
                yield _row(where, header, cells)
    finally:
        text.detach()  # the file is its opener's to close


def _header(cells: Sequence[str], name: str) -> Sequence[str]:
    if len(set(cells)) < len(cells):
        raise WrongUse(f"{name}:1: a column's name is there twice")
    return cells


def _row(where: str, header: Sequence[str], cells: Sequence[str]) -> Row | Bad:
    if len(cells) != len(header):
        return Bad(where, f"it has {len(cells)} cells, and the header {len(header)}")
    ids = ("id", "query_id", "passage_id", "candidates", "passages")
    pairs = zip(header, cells, strict=True)
    # An empty cell is how such a table says "none"; a text may be empty.
    return Row(where, {key: cell for key, cell in pairs if cell or key not in ids})


def _parquet(path: Path, name: str) -> Iterator[Row | Bad]:
    number = 0
    for batch in _batches(path):
        for fields in _fields(batch):
            number += 1
            where = f"{name}:{number}"
            if isinstance(fields, str):
                yield Bad(where, f"it cannot be read ({fields})")
            else:
                yield Row(where, {k: value for k, value in fields.items() if value is not None})


def _batches(path: Path) -> Iterator[Any]:
    parquet = load_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            # Others may be large, or hold what Python has no value for.
            columns = [column for column in file.schema_arrow.names if column in FIELDS]
            yield from file.iter_batches(batch_size=PARQUET_ROWS, columns=columns)
    except FOREIGN as error:  # of pyarrow: what is no parquet
        raise WrongUse(f"{path} cannot be read as parquet: {error}") from error


def _fields(batch: Any) -> Iterator[dict[str, object] | str]:
    """The fields of each row, or why it has none: one value can spoil a batch."""
    try:
        yield from batch.to_pylist()
        return
    except FOREIGN:
        pass
    for index in range(batch.num_rows):
        try:
            yield from batch.slice(index, 1).to_pylist()
        except FOREIGN as error:
            yield str(error)


def load_parquet() -> Any:
    """pyarrow's parquet module. Raises WrongUse when it is not installed."""
    try:
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise WrongUse("parquet needs pyarrow: `pip install pyarrow`") from error
    return pyarrow.parquet
