"""Which model ranks best, and what that costs: `python -m benchmarks quality`.

Ranks a collection by a first stage (BM25, or a run) and by each model that a server has, and prints
nDCG@10, RR@10 and recall with 95 % intervals, and pairs/s and latencies. The collection is a folder
in BEIR's form (corpus.jsonl, queries.jsonl, qrels/test.tsv), three files (--corpus, --topics,
--qrels), or a file of one's own, whose lines are {"query", "passages", "relevant": [indices]} or
have "labels" (or "grades"), one for each passage, in place of "relevant".

`arguments` reads what is asked for, by `files` (BEIR, TREC) and `own`; `first_stage` is BM25, `ask`
the models, `measures` and `table` (pure) say how good they are; `command` puts them together.
"""

from benchmarks.quality.arguments import add_arguments
from benchmarks.quality.command import run

__all__ = ["add_arguments", "run"]
