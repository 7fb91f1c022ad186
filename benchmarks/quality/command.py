"""The command: ranks a collection by the first stage and by each model, and compares."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from benchmarks.outcome import MeasureError, Outcome, UsageError
from benchmarks.progress import Progress
from benchmarks.quality import arguments, first_stage
from benchmarks.quality.ask import Address, Cost, Question, models, rerank
from benchmarks.quality.collection import Collection, Run, answerable, sample
from benchmarks.quality.measures import as_scores, per_query
from benchmarks.quality.table import System, outcomes
from benchmarks.report import write
from clients.reference import BadReference
from clients.verify import api_key


def run(options: argparse.Namespace) -> list[Outcome]:
    """How good the first stage and each model are, and what the models took.

    Raises UsageError, and MeasureError where the server fails.
    """
    collection, ranked = arguments.read(options)
    able = answerable(collection.grades, options.threshold)
    queries = sample(able, options.queries, options.seed)
    _check_folder(options.save_run, collection, queries)
    key = _key(options.api_key_file)
    server = Address(options.url, key, options.fingerprint, options.timeout)
    names = models(server, options.model)
    first = _first_stage(collection, queries, ranked, options)
    trial = _Trial(collection, queries, options)
    asked = [_ask(server, name, collection, first.run, options.clients) for name in names]
    found = outcomes(
        trial.system(replace(first, name=f"first stage ({first.name})")),
        [trial.system(ranking) for ranking in asked],
        words=f"the best {options.depth} of {first.name}, ranked again, for {len(queries)} queries",
        notes=_notes(trial, able, first.run),
        seed=options.seed,
    )
    if options.save_run:
        _save(options.save_run, first, asked)
    return found


@dataclass(frozen=True, slots=True)
class _Ranking:
    """A run, and what gave it; `cost` None of the first stage."""

    name: str
    run: Run
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class _Trial:
    """What rankings are measured against."""

    collection: Collection
    queries: Sequence[str]
    options: argparse.Namespace

    def system(self, ranking: _Ranking) -> System:
        values = per_query(
            ranking.run,
            self.collection.grades,
            self.queries,
            depth=self.options.depth,
            threshold=self.options.threshold,
        )
        return System(ranking.name, values, ranking.cost)


def _first_stage(
    collection: Collection, queries: Sequence[str], ranked: Run | None, options: argparse.Namespace
) -> _Ranking:
    if ranked is not None:
        found = _Ranking(options.run.name, {query: ranked.get(query, ()) for query in queries})
    elif options.as_given:
        found = _Ranking("the order given", first_stage.given(collection, queries, options.depth))
    else:
        found = _Ranking("BM25", first_stage.bm25(collection, queries, options.depth))
    if not any(found.run.values()):
        raise UsageError(
            f"{found.name} has no document for any of the {len(queries)} judged queries: check that"
            " run, queries and judgements have the same ids"
        )
    return found


def _ask(server: Address, name: str, collection: Collection, first: Run, clients: int) -> _Ranking:
    questions = [
        Question(id, collection.queries[id], found, [collection.texts[one] for one in found])
        for id, found in first.items()
        if found
    ]
    total = sum(len(question.documents) for question in questions)
    with Progress(name, total, " pairs") as bar:
        run, cost = rerank(server, name, questions, clients=clients, on_pairs=bar.reach)
    return _Ranking(name, run, cost)


def _notes(trial: _Trial, able: Sequence[str], first: Run) -> list[str]:
    collection, queries = trial.collection, trial.queries
    seed, depth = trial.options.seed, trial.options.depth
    left_out = len(collection.queries) - len(able)
    empty = sum(not found for found in first.values())
    told = {
        f"{left_out} of {len(collection.queries)} queries have no relevant document, and are left"
        " out": left_out,
        f"{len(queries)} of {len(able)} queries, drawn with seed {seed}": len(able) - len(queries),
        f"for {empty} queries the first stage has no document: they count as 0": empty,
    }
    ceiling = f"R@{depth} is of what the first stage found, which no ranking of it can change"
    return [*(words for words, is_so in told.items() if is_so), ceiling]


def _key(file: Path | None) -> str | None:
    try:
        return api_key(file, {})
    except BadReference as error:
        raise UsageError(f"--api-key-file: {error}") from error


def _check_folder(folder: Path | None, collection: Collection, queries: Sequence[str]) -> None:
    """Before anything is asked. Raises UsageError."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save-run: {folder} is not a folder: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save-run: {error}: name another folder") from error
    for id in (*queries, *collection.texts):
        if len(id.split()) != 1:
            raise UsageError(f"--save-run: no TREC run can hold the id {id!r}: it has whitespace")


def _save(folder: Path, first: _Ranking, rankings: Sequence[_Ranking]) -> None:
    """A file for each model: its name has no folder in it, and no two are the same."""
    runs = {f"reranked-{quote(one.name, safe='')}.run": _trec(one) for one in rankings}
    try:
        write(folder, {"first-stage.run": _trec(first)} | runs)
    except OSError as error:
        raise MeasureError(f"--save-run: {error}") from error


def _trec(ranking: _Ranking) -> bytes:
    tag = quote(ranking.name, safe="/")
    lines = [
        f"{query} Q0 {id} {rank} {score:g} {tag}\n"
        for query, found in ranking.run.items()
        for rank, (id, score) in enumerate(as_scores(found).items(), 1)
    ]
    return "".join(lines).encode()
