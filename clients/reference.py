"""Files of reference scores, `configs/reference/NAME.json`, and files of examples to record.

{"model": "bge-reranker-base", "dtype": "float16", "source": "where the scores are from",
 "examples": [{"query": "…", "passages": ["…"], "scores": [0.5]}]}
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clients.ask import Question
from clients.compare import TOLERANCES, Example, Reference, known_dtype

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "reference"


class BadReference(Exception):
    """A file, or what names one, that cannot be used. The message says what to do."""


def model_name(model: str) -> str:
    """The name that a server gives to what `make serve MODEL=…` takes: a YAML's or a folder's is
    its own, any other stays as it is."""
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        return path.stem
    return path.name if model.startswith((".", "/")) else model


def path_for(model: str, folder: Path = FOLDER) -> Path:
    """The reference file of a model, whether it is there or not: `org/Name` has Name.json, in
    whatever case."""
    name = model_name(model).rstrip("/").rpartition("/")[2]
    if not name:
        raise BadReference(f"{model!r} names no model: give a name such as minilm")
    for path in sorted(folder.glob("*.json")):
        if path.stem.lower() == name.lower():
            return path
    return folder / f"{name}.json"


def read_reference(path: Path) -> Reference:
    """Raises BadReference, naming the file, the field and the remedy."""
    root = _object(_parse(_text_of(path), str(path)), str(path))
    where = f"{path}: "
    dtype = known_dtype(root.get("dtype"))
    if dtype is None:
        raise BadReference(f"{where}dtype must be one of {', '.join(TOLERANCES)}")
    source = _text(root.get("source", ""), f"{where}source")
    items = root.get("examples")
    if not isinstance(items, list) or not items:
        raise BadReference(f"{where}examples must be a list with one example at least")
    model = _text(root.get("model"), f"{where}model")
    if not model:
        raise BadReference(f"{where}model is empty: write the name that servers have for it")
    examples = [_example(item, f"{where}examples[{index}]") for index, item in enumerate(items)]
    return Reference(model, dtype, source, examples)


def read_questions(path: Path) -> list[Question]:
    """The examples of a JSONL file, one `{"query", "passages"}` a line. Raises BadReference."""
    questions = [
        _question(_object(_parse(line, f"{path}:{number}"), f"{path}:{number}"), f"{path}:{number}")
        for number, line in enumerate(_text_of(path).split("\n"), 1)
        if line.strip()
    ]
    if not questions:
        raise BadReference(f'{path} is empty: write one {{"query": …, "passages": […]}} a line')
    return questions


def write_reference(path: Path, reference: Reference, *, force: bool = False) -> None:
    """Writes the whole file or nothing. Raises BadReference when it is there and not `force`."""
    refuse_overwrite(path, force=force)
    text = json.dumps(asdict(reference), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise BadReference(
            f"{path} cannot be written: {error.strerror}; name another with --reference"
        ) from error


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Raises BadReference when the file is there and not `force`."""
    if path.exists() and not force:
        raise BadReference(
            f"{path} is there already: pass --force to overwrite it, or name another with"
            " --reference"
        )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadReference(f"{path} is not UTF-8: save it as such") from error
    except OSError as error:
        raise BadReference(f"{path} cannot be read: {error.strerror}; check its name") from error


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadReference(f"{where} is not JSON: {error}; correct it") from error


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadReference(f"{where} must be an object: {{…}}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise BadReference(f"{where} must be a string: write it in quotes")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise BadReference(f"{where} has half of a surrogate pair: write the whole character")
    return value


def _question(item: Mapping[str, Any], where: str) -> Question:
    passages = item.get("passages")
    if not isinstance(passages, list) or not passages:
        raise BadReference(f"{where}: passages must be a list with one text at least")
    return (
        _text(item.get("query"), f"{where}: query"),
        [_text(text, f"{where}: passages[{index}]") for index, text in enumerate(passages)],
    )


def _example(item: object, where: str) -> Example:
    entry = _object(item, where)
    query, passages = _question(entry, where)
    scores = entry.get("scores")
    if not isinstance(scores, list) or len(scores) != len(passages):
        raise BadReference(f"{where}: scores must be a list with one for each passage")
    for index, score in enumerate(scores):
        number = type(score) in (int, float)  # a boolean is none
        if not number or not math.isfinite(score) or not 0 <= score <= 1:
            raise BadReference(f"{where}: scores[{index}] must be a number from 0 to 1")
    return Example(query, passages, [float(score) for score in scores])
