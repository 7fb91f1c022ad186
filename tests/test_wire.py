"""Bodies as real clients send and read them, as files in `golden/wire/<dialect>/`.

Each holds a `request` to a `path`, the `canonical` request that it comes to (what differs from
RerankRequest's defaults), a `result`, and the `response` to it. Those called `error_…` hold the
`error` that the request comes to (without a request: one of any engine's) and its `response`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve import dialects, errors
from serve.dialects import Sharing
from serve.dialects.base import Dialect
from serve.paths import normal
from serve.rerank import Chunk, RerankRequest, RerankResult, Stages, rank

FOLDER = Path(__file__).parent / "golden" / "wire"
GOLDENS = sorted(FOLDER.rglob("*.json"))
ERRORS = [path for path in GOLDENS if path.name.startswith("error_")]
ANSWERS = [path for path in GOLDENS if path not in ERRORS]
NAMES = {dialect.name for dialect in dialects.DIALECTS}


def ids(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


@cache
def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def sharing(golden: dict[str, Any]) -> Sharing:
    return dialects.by_path()[normal(golden["path"])]


def choose(golden: dict[str, Any]) -> Dialect:
    return sharing(golden).choose(golden["request"], golden.get("headers", {}))


def canonical(golden: dict[str, Any]) -> RerankRequest:
    given = golden["canonical"]
    return RerankRequest(**given | {"fields": tuple(given.get("fields", ("query", "passages")))})


def result(golden: dict[str, Any]) -> RerankResult:
    given = dict(golden["result"])
    given["chunks"] = {int(i): Chunk(**chunk) for i, chunk in given.get("chunks", {}).items()}
    if stages := given.get("stages"):
        then = {int(index): value for index, value in stages["then"].items()}
        given["stages"] = Stages(stages["first"], then)
    return RerankResult(id="score-1", model="m", created=7, prompt_tokens=9, **given)


@pytest.mark.parametrize("path", ANSWERS, ids=ids)
def test_a_request_comes_to_its_canonical_form(path: Path):
    golden = read(path)
    dialect = choose(golden)
    assert dialect.name == path.parent.name
    assert dialect.parse(golden["request"]) == canonical(golden)


@pytest.mark.parametrize("path", ANSWERS, ids=ids)
def test_a_result_comes_to_its_response(path: Path):
    golden = read(path)
    [dialect] = [each for each in sharing(golden) if each.name == path.parent.name]
    rendered = dialect.render(canonical(golden), result(golden))
    assert orjson.loads(orjson.dumps(rendered)) == golden["response"]


@pytest.mark.parametrize("path", ERRORS, ids=ids)
def test_an_error_comes_to_its_response(path: Path):
    golden = read(path)
    given = dict(golden["error"])
    kind = getattr(errors, given.pop("kind"))
    error = kind(**given)
    dialect = sharing(golden)[-1]
    if "request" in golden:
        with pytest.raises(kind) as raised:
            dialect = choose(golden)
            dialect.parse(golden["request"])
        error = raised.value
        assert (error.message, error.param) == (given["message"], given["param"])
    else:
        [dialect] = [each for each in sharing(golden) if each.name == path.parent.name]
    assert dialect.name == path.parent.name
    assert dict(error.headers) == golden.get("headers_of_response", {})
    assert orjson.loads(orjson.dumps(dialect.render_error(error, "r-1"))) == golden["response"]


@pytest.mark.parametrize("path", ANSWERS, ids=ids)
def test_the_goldens_are_possible(path: Path):
    golden = read(path)
    request, answer = canonical(golden), result(golden)
    assert len(answer.scores) == len(answer.raw) == len(request.passages)
    assert list(answer.ranking) == rank(answer.raw, request.top_n)
    defaults = RerankRequest([], [])
    same = {
        name
        for name in RerankRequest._fields
        if name in golden["canonical"] and getattr(request, name) == getattr(defaults, name)
    }
    assert not same - {"queries", "passages"}, "canonical forms hold what is no default only"


def test_no_golden_is_unread():
    files = {path for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {*ANSWERS, *ERRORS}
    assert {path.parent for path in files} == {FOLDER / name for name in NAMES}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_dialect_has_goldens(name: str):
    assert sum(path.parent.name == name for path in ANSWERS) >= 2
    assert sum(path.parent.name == name for path in ERRORS) >= 1


@pytest.mark.parametrize(("documents", "units"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_search_units(documents: int, units: int):
    golden = read(FOLDER / "cohere-v2" / "cohere_sdk.json")
    request = canonical(golden)._replace(passages=["a"] * documents)
    body: Any = sharing(golden)[-1].render(request, result(golden)._replace(ranking=[0]))
    assert body["meta"]["billed_units"]["search_units"] == units


@pytest.mark.parametrize(
    ("cut", "words"), [(20, "documents[19]"), (23, "documents[19] and 3 more")]
)
def test_warnings_name_some_of_many(cut: int, words: str):
    golden = read(FOLDER / "cohere-v2" / "cohere_sdk.json")
    answer = result(golden)._replace(cut=range(cut))
    body: Any = sharing(golden)[-1].render(canonical(golden), answer)
    [warning] = body["meta"]["warnings"]
    assert warning.endswith(words) and warning.count("documents[") == 20
