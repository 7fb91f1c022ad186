"""What is ranked, and what is known of it: queries, texts and grades by their ids. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.outcome import UsageError

Texts = Mapping[str, str]
Grades = Mapping[str, Mapping[str, int]]  # of a query, its documents'
Run = Mapping[str, Sequence[str]]  # of a query, its documents, the best first


@dataclass(frozen=True, slots=True)
class Collection:
    """`own` are the documents that each query is asked about, where it has its own ones."""

    queries: Texts
    texts: Texts
    grades: Grades
    own: Run | None = None


def check_known(judgements: str, grades: Grades, queries: Texts, texts: Texts) -> None:
    """Raises UsageError where `judgements`, the name of a file, speak of what is not there."""
    pairs = [(query, document) for query, known in grades.items() for document in known]
    strange = [query for query in grades if query not in queries]
    lost = [pair for pair in pairs if pair[1] not in texts]
    remedy = "mend it, or name the files that it belongs to"
    if strange:
        raise UsageError(
            f"{judgements}: query {strange[0]!r} is not among the queries (nor are"
            f" {len(strange) - 1} others of it): {remedy}"
        )
    if lost:
        query, document = lost[0]
        raise UsageError(
            f"{judgements}: document {document!r}, judged for query {query!r}, is not in the corpus"
            f" (nor are {len(lost) - 1} others of it): {remedy}"
        )


def answerable(grades: Grades, threshold: int) -> list[str]:
    """The queries that have a document of at least that grade. Raises UsageError for none."""
    found = [query for query, known in grades.items() if max(known.values()) >= threshold]
    if not found:
        raise UsageError(
            f"no query has a relevant document, of a grade of {threshold} or more: check the"
            " judgements and --threshold"
        )
    return found


def sample(queries: Sequence[str], count: int | None, seed: int) -> list[str]:
    """`count` of the queries, in their order; all of them where there are no more."""
    if count is None or count >= len(queries):
        return list(queries)
    return [
        queries[place] for place in sorted(random.Random(seed).sample(range(len(queries)), count))
    ]
