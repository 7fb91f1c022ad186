"""Reads collections and runs: BEIR's folders, TREC's files. What is wrong is a UsageError."""

import math
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from benchmarks.outcome import UsageError
from benchmarks.quality.collection import Collection, Grades, Run, Texts, check_known
from clients.bulk.records import Bad
from clients.bulk.tables import WrongUse, read_rows
from clients.wire import is_unicode

BEIR_QUERY = "query-id"  # the first word of the header that BEIR's judgements have
JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})


def folder(path: Path, split: str | None, run: Run | None) -> Collection:
    """BEIR's form: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""
    found = {file.stem: file for file in sorted((path / "qrels").glob("*.tsv"))}
    name = split or ("test" if len(found) != 1 else next(iter(found)))
    if name not in found:
        there = f"--split may be {', '.join(found)}" if found else "there is none at all"
        raise UsageError(f"{path} has no qrels/{name}.tsv: {there}")
    return three(path / "corpus.jsonl", path / "queries.jsonl", found[name], run)


def three(corpus: Path, topics: Path, qrels: Path, run: Run | None) -> Collection:
    """A collection of three files. With a run, only the texts that it needs are kept."""
    grades = judgements(qrels)
    wanted = None
    if run is not None:
        wanted = {id for ids in (*run.values(), *grades.values()) for id in ids}
    queries, documents = texts(topics), texts(corpus, wanted)
    check_known(str(qrels), grades, queries, documents)
    for query, ids in (run or {}).items():
        if lost := next((id for id in ids if id not in documents), None):
            raise UsageError(
                f"--run: document {lost!r} of query {query!r} is not in {corpus}: name the corpus"
                " that the run is of"
            )
    return Collection(queries, documents, grades)


def texts(path: Path, wanted: Container[str] | None = None) -> Texts:
    """Texts by id, of JSON lines {"_id", "title", "text"} or lines of an id, a tab and a text."""
    rows = _json_texts(path) if path.suffix.lower() in JSON_LINES else _tab_texts(path)
    found: dict[str, str] = {}
    for where, id, text in rows:
        if wanted is not None and id not in wanted:
            continue
        if id in found:
            raise UsageError(f"{where}: the id {id!r} is there already: each may be there once")
        if not is_unicode(text):
            raise UsageError(f"{where}: the text is not valid Unicode (a lone surrogate): mend it")
        found[id] = text
    if not found and wanted is None:
        raise UsageError(f"{path} is empty: name another file")
    return found


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Place (`file:line`) and object of each line."""
    try:
        for row in read_rows(path, "jsonl", str(path)):
            if isinstance(row, Bad):
                raise UsageError(f"{row.where}: {row.reason}: write one object a line, in UTF-8")
            yield row.where, row.fields
    except WrongUse as error:
        raise UsageError(str(error)) from error


def _json_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    for where, fields in json_lines(path):
        id = fields.get("_id", fields.get("id"))
        if not isinstance(id, str | int) or isinstance(id, bool):
            raise UsageError(f'{where}: _id: a text is needed: a line is {{"_id", "text"}}')
        parts = [fields.get("title") or "", fields.get("text")]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError(f"{where}: text: a text in quotes is needed (title may be left out)")
        yield where, str(id), " ".join(map(str, parts)).strip()


def _tab_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    for where, line in _lines(path):
        id, tab, text = line.partition("\t")
        if not tab:
            raise UsageError(f"{where}: an id, a tab and a text are needed (or name a .jsonl file)")
        yield where, id.strip(), text.replace("\t", " ").strip()


def judgements(path: Path) -> Grades:
    """Grades, of lines of query, document and grade, or TREC's with a word after the query."""
    found: dict[str, dict[str, int]] = {}
    for where, line in _lines(path):
        cells = line.split()
        if cells[0] == BEIR_QUERY and not found:
            continue
        if len(cells) not in (3, 4):
            raise UsageError(
                f"{where}: query, document and grade are needed (TREC: query 0 document grade)"
            )
        query, document, grade = cells[0], cells[-2], _grade(cells[-1], where)
        if found.setdefault(query, {}).setdefault(document, grade) != grade:
            raise UsageError(f"{where}: document {document!r} has another grade above: keep one")
    if not found:
        raise UsageError(f"{path} has no judgements: name another file")
    return found


def _grade(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{where}: the grade {text!r} is no whole number: round it") from None


def run(path: Path, depth: int) -> Run:
    """The best `depth` documents of each query of a TREC run, by score, then by rank."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for where, line in _lines(path):
        cells = line.split()
        if len(cells) != 6:
            raise UsageError(f"{where}: a run's line is: query Q0 document rank score tag")
        query, _, document, *numbers, _ = cells
        rows = found.setdefault(query, {})
        if document in rows:
            raise UsageError(f"{where}: document {document!r} is there twice for query {query!r}")
        try:
            rank, score = int(numbers[0]), float(numbers[1])
        except ValueError:
            rank, score = 0, math.nan
        if math.isnan(score):
            raise UsageError(f"{where}: rank and score must be numbers, not {' '.join(numbers)}")
        rows[document] = -score, rank
    if not found:
        raise UsageError(f"--run: {path} is empty: name a run, or leave --run out for BM25")
    return {query: sorted(rows, key=rows.__getitem__)[:depth] for query, rows in found.items()}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                text = line.decode("utf-8-sig").strip("\r\n")
                if text.strip():
                    yield where, text
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: it is not UTF-8: write it anew in that encoding") from error
