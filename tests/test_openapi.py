"""What `/openapi.json` says of the server, against what the server does."""

import html
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi import checks

from serve import docs, openapi, page, status
from serve.auth import Keys
from serve.catalog import Catalog
from serve.dialects import DIALECTS, agent
from serve.dialects.base import Dialect
from serve.dialects.options import common
from serve.dialects.schemas import COMMON
from serve.errors import InvalidRequest
from serve.gateway import Gateway
from serve.openapi_errors import ERRORS, camel
from serve.pool import Pool
from serve.replica import Replica
from serve.rerank import Chunk, Stages
from serve.spec import Model
from serve.stack import Stack
from serve.telling import OPEN_PATHS
from serve.vllm_log import Progress
from tests.harness import KEY, Server
from tests.test_catalog import STACK, catalog

DOCUMENT = json.loads(json.dumps(openapi.build(open_paths=OPEN_PATHS, needs_key=False)))
KEYED = json.loads(json.dumps(openapi.build(open_paths=OPEN_PATHS, needs_key=True)))
ON_PATHS = [(dialect, path) for dialect in DIALECTS for path in dialect.paths]
OPERATIONS = [
    (path, method, told)
    for path, operations in DOCUMENT["paths"].items()
    for method, told in operations.items()
]


def id_(value: object) -> str | None:
    return value.name if isinstance(value, Dialect) else None


def schema(name: str) -> Draft202012Validator:
    """A component's schema, which may refer to others."""
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    )


# -- the document --------------------------------------------------------------------------------


def test_every_schema_is_one_and_every_reference_leads_somewhere():
    for told in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(told)
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT))):
        found: Any = DOCUMENT
        for part in reference.split("/"):
            found = found[part]


def test_operations_have_names_of_their_own_and_known_tags():
    names = [told["operationId"] for _, _, told in OPERATIONS]
    assert len(set(names)) == len(names) and "postV1Rerank" in names
    assert {tag for _, _, told in OPERATIONS for tag in told["tags"]} == set(openapi.TAGS)


def test_every_route_is_told_and_nothing_else():
    model = Model(model="a/b", names=("m",))
    gateway = Gateway(Catalog(Stack.of(model), [Pool(model, [])]), keys=Keys())
    routes = {path: {method.lower() for method in of} for path, of in gateway.routes.items()}
    told = {path: set(operations) for path, operations in DOCUMENT["paths"].items()}
    assert told.pop("/v1/models/{model}") == {"get"}  # a prefix, which is in no table
    files = page.PATHS - {"/"}
    assert {path: of for path, of in routes.items() if path not in files} == told


def test_every_error_of_a_request_is_told():
    from serve import errors

    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RequestError)
    }
    assert {type(error) for _, error in ERRORS} == kinds - {errors.RequestError}
    assert set(DOCUMENT["components"]["responses"]) == {type(error).__name__ for _, error in ERRORS}


def test_the_document_tells_nothing_of_the_server_but_its_api(fake_server: Server):
    answer = fake_server.get("/openapi.json")
    assert answer.json() == DOCUMENT
    assert "fake" not in answer.text and "fake" not in fake_server.get("/docs").text


def examples(told: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], object]]:
    """Schema and value of every example below a part of the document."""
    for name, part in told.items():
        if name == "content":
            for media in part.values():
                shown = [one["value"] for one in media.get("examples", {}).values()]
                shown += [media["example"]] if "example" in media else []
                yield from ((media["schema"], value) for value in shown)
        elif isinstance(part, dict) and name not in ("schema", "schemas"):
            yield from examples(part)


def test_every_example_is_what_its_schema_says():
    found = list(examples(DOCUMENT))
    assert len(found) > 80
    for told, value in found:
        whole = {**told, "components": DOCUMENT["components"]}
        errors = [error.message for error in Draft202012Validator(whole).iter_errors(value)]
        assert not errors, (value, errors)


# -- the fields of every dialect -----------------------------------------------------------------


class Recording(dict[str, Any]):
    """A body that notes which fields are asked for."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        super().__init__(body)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)


def bodies(dialect: Dialect) -> Iterator[Mapping[str, Any]]:
    """Bodies that between them make `parse` read all that it ever does: the example, and for each
    set of required fields one with texts and one with objects."""
    yield dialect.doc.example
    for names in dialect.doc.required:
        query, passages = names
        yield {query: "q", passages: ["a"]}
        if dialect.name not in ("simple", "mcp"):
            yield {query: "q", passages: [{"text": "a"}]}


@pytest.mark.parametrize("dialect", [*DIALECTS, agent.DIALECT], ids=id_)
def test_the_fields_told_are_those_that_are_read(dialect: Dialect):
    read: set[str] = set()
    for body in bodies(dialect):
        recording = Recording(body)
        dialect.parse(recording)
        dialect.is_meant(recording, {})
        if dialect is not agent.DIALECT:
            # Most options are looked for only if one is there; Pinecone's parser gives it a copy.
            common(more := Recording({**body, "user": None}))
            read |= more.read
        read |= recording.read
    assert read == set(dialect.doc.fields)
    assert dialect is agent.DIALECT or set(dialect.doc.fields) >= set(COMMON)


@pytest.mark.parametrize("dialect", [*DIALECTS, agent.DIALECT], ids=id_)
def test_the_fields_told_as_required_are(dialect: Dialect):
    for names in dialect.doc.required:
        passages = [{"text": "a"}] if dialect.name == "nim" else ["a"]
        body = dict(zip(names, ("q", passages), strict=True))
        dialect.parse(body)
        for name in names:
            for less in ({**body, name: None}, {k: v for k, v in body.items() if k != name}):
                with pytest.raises(InvalidRequest):
                    dialect.parse(less)


@pytest.mark.parametrize(("dialect", "path"), ON_PATHS, ids=id_)
def test_the_examples_of_every_path(fake_server: Server, dialect: Dialect, path: str):
    """The body is taken as its own dialect's, the answer is as told, and what is required is."""
    body = dict(dialect.doc.example)
    answer = fake_server.post(path, body)
    assert answer.status_code == 200, answer.text
    schema(f"{camel(dialect.name)}Answer").validate(answer.json())
    shown = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]
    example = shown["examples"][camel(dialect.name)]["value"]
    assert keys(answer.json()) == keys(example)
    named = next(names for names in dialect.doc.required if names[0] in body)
    for name in named:
        less = {key: value for key, value in body.items() if key != name}
        refused = fake_server.post(path, less)
        assert refused.status_code == 400
        kind = f"{camel(dialect.name)}Error"
        known = kind in DOCUMENT["components"]["schemas"] and name != dialect.texts
        schema(kind if known else "Error").validate(refused.json())


def keys(value: object) -> object:
    """The form of a JSON value: the keys of its objects, those of a list's first item."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(item) for item in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize("dialect", [*DIALECTS, agent.DIALECT], ids=id_)
def test_answers_with_all_that_there_can_be_are_told(dialect: Dialect):
    """A cascade's, of texts in parts, some of them cut; and raw values, with no texts in it."""
    request, plain = openapi.example_result(dialect)
    full = plain._replace(
        cut=[0, 1],
        chunks={0: Chunk(1, 3, 100, 200)},
        stages=Stages(plain.raw, {1: plain.raw[1]}),
        ranking=[1, 0],
    )
    told = Draft202012Validator(dialect.doc.answer)
    raw = [] if dialect is agent.DIALECT else [full._replace(scores=plain.raw)]  # it asks for none
    for result in (full, *raw):
        for echo in (True, False):
            told.validate(
                json.loads(json.dumps(dialect.render(request._replace(echo=echo), result)))
            )


def told_of(path: str, status: str = "200") -> Draft202012Validator:
    """The schema of a GET route's answer."""
    content = DOCUMENT["paths"][path]["get"]["responses"][status]["content"]
    return Draft202012Validator(content["application/json"]["schema"])


def test_what_is_told_of_models_and_health_is_so(fake_server: Server):
    several = catalog(STACK)
    told_of("/v1/models").validate(status.models(several, created=1))
    told_of("/info").validate(status.info(several))
    told_of("/v1/models/{model}").validate(fake_server.get("/v1/models/org/fake").json())
    loading = Replica(None, progress=Progress("loading", 50, 10**9))  # type: ignore[arg-type]
    waiting = status.readiness([Pool(STACK.models[0], [loading])], draining=True, now=1.5)
    told_of("/health/ready", "503").validate(waiting)


# -- schemathesis --------------------------------------------------------------------------------

CONFIG = {
    "seed": 1,
    "generation": {"deterministic": True, "database": "none", "max-examples": 20, "mode": "all"},
    "checks": {
        # A body that is too large may be told so before it is looked at.
        "negative_data_rejection": {"expected-statuses": [400, 401, 404, 405, 406, 413]},
    },
}
# Why this server may refuse a body that is as its schema says: what no schema can say …
EXCUSES = (
    "send one list of texts to rank",
    "send one, or as many",
    "name its fields in `rank_fields`",
    "it has none of the rank_fields",
    "it is an object: send a string",  # among strings, where they decide that it is the simple API
    # … and what the model at hand cannot do.
    "no LLM reranker is configured",
    "no prompt that reads it",
    "tokenizer is not known",
)


def known_bodies(document: Mapping[str, Any]) -> Iterator[str]:
    """The paths whose bodies those before them take too: as they are, or one of several kinds."""
    seen: list[set[str]] = []
    for path, operations in document["paths"].items():
        if body := operations.get("post", {}).get("requestBody"):
            told = body["content"]["application/json"]["schema"]
            names = [one["$ref"].rpartition("/")[2] for one in told.get("anyOf", [told])]
            whole = [document["components"]["schemas"][name] for name in names]
            kinds = {json.dumps({**one, "title": "", "description": ""}) for one in whole}
            if kinds in seen or (len(kinds) > 1 and kinds <= set().union(*seen)):
                yield path
            seen.append(kinds)


def accepts(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A body as its schema says is answered, or there is an excuse."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code >= 400 and response.status_code not in (404, 413):
        message = response.json()["message"]
        assert any(excuse in message for excuse in EXCUSES), message


# Of a body that several paths take, every field is gone through once.
SHORTER = [
    {"include-path": path, "phases": {"coverage": {"enabled": False}}}
    for path in known_bodies(DOCUMENT)
]
described = schemathesis.openapi.from_dict(
    DOCUMENT, config=schemathesis.Config.from_dict({**CONFIG, "operations": SHORTER})
)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


@described.parametrize()
def test_the_server_does_as_it_says(
    case: schemathesis.Case, fake_server: Server, session: requests.Session
):
    """No 5xx; statuses, content types, headers and bodies as told; bad bodies refused, good ones
    taken; 405 with `allow` for other methods."""
    response = case.call(base_url=fake_server.url, session=session)
    spared = [checks.positive_data_acceptance]
    if case.path == agent.PATH:  # its errors come with 200, as the protocol has it
        spared.append(checks.negative_data_rejection)
    case.validate_response(
        response,
        additional_checks=[] if case.path == agent.PATH else [accepts],
        excluded_checks=spared,
        transport_kwargs={"base_url": fake_server.url, "session": session},
    )


@pytest.mark.parametrize(("path", "method", "told"), OPERATIONS)
def test_another_method_is_refused(
    fake_server: Server, path: str, method: str, told: Mapping[str, Any]
):
    url = fake_server.url + path.replace("{model}", "fake")
    for other in {"get", "post", "put", "patch", "delete", "options"} - {method}:
        answer = requests.request(other, url, timeout=10)
        assert answer.status_code == 405 and answer.headers["allow"] == method.upper()
        schema("Error").validate(answer.json())
        assert f"takes {method.upper()}, not {other.upper()}" in answer.json()["message"]
    if method == "get":
        assert requests.head(url, timeout=10).ok


# -- keys ----------------------------------------------------------------------------------------


BRIEF = {**CONFIG, "phases": {"coverage": {"enabled": False}, "fuzzing": {"enabled": False}}}
guarded = schemathesis.openapi.from_dict(KEYED, config=schemathesis.Config.from_dict(BRIEF))


@guarded.include(method="POST").parametrize()  # the others have no bodies to make examples of
def test_no_key_is_ignored(case: schemathesis.Case, keyed_server: Server):
    headers = {"Authorization": f"Bearer {KEY}"}  # in this case of letters it is taken out again
    case.call_and_validate(base_url=keyed_server.url, headers=headers, checks=[checks.ignored_auth])


@pytest.mark.parametrize(("path", "method", "told"), OPERATIONS)
def test_which_routes_need_a_key(
    keyed_server: Server, path: str, method: str, told: Mapping[str, Any]
):
    url = keyed_server.url + path.replace("{model}", "fake")
    is_open = path in OPEN_PATHS
    assert ("401" in told["responses"]) != is_open and (told.get("security") == []) == is_open

    def status(**headers: str) -> int:
        return requests.request(method, url, headers=headers, data=b"{}", timeout=10).status_code

    assert (status() == 401) != is_open
    assert (status(Authorization="Bearer wrong") == 401) != is_open
    for scheme in KEYED["components"]["securitySchemes"].values():
        name = scheme.get("name", "Authorization")
        assert status(**{name: KEY if "name" in scheme else f"Bearer {KEY}"}) != 401


def test_the_document_says_whether_keys_are_needed(keyed_server: Server):
    assert keyed_server.get("/openapi.json").json() == KEYED
    assert DOCUMENT["security"] == [] and len(KEYED["security"]) == 3
    assert "Bearer YOUR_KEY" in docs.render(KEYED) and "Bearer YOUR_KEY" not in docs.render(
        DOCUMENT
    )


# -- the page ------------------------------------------------------------------------------------


def test_the_page_tells_every_route_field_and_error():
    text = docs.render(DOCUMENT)
    for path, method, _ in OPERATIONS:
        assert f"{method.upper()} {path}</" in text
    for dialect in DIALECTS:
        assert all(f"<code>{field}</code>" in text for field in dialect.doc.fields)
    for _, error in ERRORS:
        assert f"<code>{error.status}</code>" in text and f"<code>{error.code}</code>" in text


def test_the_page_links_to_itself_and_this_server_only():
    text = docs.render(DOCUMENT)
    places = re.findall(r' id="([^"]+)"', text)
    assert len(set(places)) == len(places)
    for link in re.findall(r' (?:href|src)="([^"]+)"', text):
        place = link.removeprefix("#")
        assert place in places if link.startswith("#") else link == "." or f"/{link}" in served()


def served() -> set[str]:
    return {*page.PATHS, docs.PATH, openapi.PATH}


def calls(server: Server) -> Sequence[str]:
    """The calls that the page shows, to that server."""
    text = server.get("/docs").text
    found = re.findall(r'<pre class="call"[^>]*>(.*?)</pre>', text, re.DOTALL)
    plain = [html.unescape(re.sub("<[^>]+>", "", call)) for call in found]
    return [call.replace(docs.ADDRESS, server.url) for call in plain]


def test_every_call_on_the_page_works(fake_server: Server, tmp_path: Path):
    shown = calls(fake_server)
    assert len(shown) == len({dialect.name for dialect in DIALECTS}) + 1  # and that of agents
    for call in shown:
        done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert "error" not in answer, call


def test_the_page_and_the_document_come_with_their_types(fake_server: Server):
    for path, kind in (
        ("/docs", "text/html; charset=utf-8"),
        ("/openapi.json", "application/json"),
    ):
        answer = fake_server.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"] == kind
        assert answer.headers["content-security-policy"].startswith("default-src 'none';")
