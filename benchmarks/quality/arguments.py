"""What the command takes, and the collection that it names."""

import argparse
from pathlib import Path

from benchmarks.outcome import UsageError
from benchmarks.quality import files, own
from benchmarks.quality.collection import Collection, Run
from clients.address import add_fingerprint, address
from clients.bulk.options import positive, some_seconds

URL = "http://127.0.0.1:8000"
FORMS = (
    "A BEIR folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Lines of one's own are"
    f" {own.FORMS}; relevant lists indices from 0, labels are grades or 0 and 1."
)
THREE = ("corpus", "topics", "qrels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command alone."""
    what = parser.add_argument_group("what is ranked", FORMS).add_argument
    what("collection", nargs="?", type=Path, help="a BEIR folder, or JSON lines of one's own")
    what("--split", help="of the folder: qrels/SPLIT.tsv; default: test, or the only one")
    what("--corpus", type=Path, metavar="F", help="in place of a folder: jsonl, or id TAB text")
    what("--topics", type=Path, metavar="F", help="and the queries, in the same forms")
    what("--qrels", type=Path, metavar="F", help="and TREC's or BEIR's judgements")
    what("--run", type=Path, metavar="F", help="the first stage, a TREC run; default: BM25")
    what("--as-given", action="store_true", help="own passages: their order is the first stage")
    what("--depth", type=positive, default=50, metavar="K", help="the best K of it; default: 50")
    what("--queries", type=positive, metavar="N", help="so many, drawn by --seed; default: all")
    what("--threshold", type=positive, default=1, metavar="G", help="relevant from this grade on")
    what("--seed", type=_seed, default=0, metavar="N", help="of draw and intervals; default: 0")
    what("--save-run", type=Path, metavar="FOLDER", help="write each ranking there, a TREC run")
    server = parser.add_argument_group("the server")
    asking = server.add_argument
    asking("--url", type=address, default=URL, help="default: %(default)s")
    asking("--model", action="append", default=[], help="may be repeated; default: all it has")
    asking("--api-key-file", type=Path, metavar="F", help="whose first key is sent")
    asking("--clients", type=positive, default=2, metavar="N", help="requests at once; default: 2")
    asking("--timeout", type=some_seconds, default=300, metavar="S", help="of a wait; default: 300")
    add_fingerprint(server)


def read(options: argparse.Namespace) -> tuple[Collection, Run | None]:
    """The collection, and the run if one is named. Raises UsageError."""
    path: Path | None = options.collection
    is_own = path is not None and not path.is_dir()
    _check(options, is_own)
    if path is not None and is_own:
        return own.read(path), None
    run = files.run(options.run, options.depth) if options.run else None
    if path is not None:
        return files.folder(path, options.split, run), run
    return files.three(options.corpus, options.topics, options.qrels, run), run


def _check(options: argparse.Namespace, is_own: bool) -> None:
    """Raises UsageError for options that do not go together."""
    given = [name for name in THREE if getattr(options, name)]
    if options.collection is None:
        if missing := [f"--{name}" for name in THREE if name not in given]:
            raise UsageError(
                f"{' and '.join(missing)} missing: name a folder or a file to rank, or all three of"
                " --corpus, --topics and --qrels"
            )
        kind, wrong = "three files", ["split", "as_given"]
    elif is_own:
        kind, wrong = "passages of one's own", [*given, "split", "run"]
    else:
        kind, wrong = "a folder", [*given, "as_given"]
    for name in wrong:
        if getattr(options, name):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} does not go with {kind}: leave it out (see --help)")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError("a whole number of 0..4294967295 is needed")
    return int(text)
