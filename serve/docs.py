"""Pure: the page at `/docs`, made of the document at `/openapi.json`, once.

It needs no script: that of the page only puts the address in that it came from, and copies.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from serve.dialects import agent
from serve.dialects.schemas import COMMON, TYPES
from serve.docs_models import answers, fields, properties
from serve.headers import REQUEST_ID
from serve.markup import code, link, pretty, prose, table, tag

Json = Mapping[str, Any]

PATH = "/docs"
ADDRESS = "http://127.0.0.1:8000"
_HEAD = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>rerank-serve: the API</title>
  <link rel="icon" href="page.svg" type="image/svg+xml">
  <link rel="stylesheet" href="page.css">
  <link rel="stylesheet" href="docs.css">
  <script type="module" src="docs.js"></script>
</head>
"""
_TITLE = """\
<header>
  <h1><img src="page.svg" alt="" width="26" height="26">rerank-serve: the API</h1>
  <p><a href=".">Try it</a> · <a href="openapi.json">OpenAPI 3.1</a></p>
</header>
"""


def render(document: Json) -> str:
    """The whole page."""
    apis = _apis(document)
    sections = [
        _intro(document),
        *(_api(document, name, paths) for name, paths in apis.items()),
        _section("common", "Fields of every API", fields(COMMON, ())),
        _section("types", "Types", *map(_type, TYPES.items())),
        _agents(document["paths"][agent.PATH]["post"], needs_key=bool(document["security"])),
        _section("routes", "Other routes", *_telling(document["paths"])),
        _section("errors", "Errors", _errors(document["components"])),
        _section("headers", "Headers of answers", _headers(document["components"])),
    ]
    body = _TITLE + tag("main", _contents(document, apis), tag("div", *sections))
    return f"{_HEAD}{tag('body', body)}\n</html>\n"


def _apis(document: Json) -> Mapping[str, Sequence[str]]:
    """The APIs that score, by the name of their parts, and the paths of each."""
    found: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if operation["tags"] == ["Scoring"]:
                told = operation["requestBody"]["content"]["application/json"]["examples"]
                for name in reversed(told):  # the plain before the particular
                    found.setdefault(name, []).append(path)
    return found


def _contents(document: Json, apis: Mapping[str, Sequence[str]]) -> str:
    schemas = document["components"]["schemas"]
    places = [(name, schemas[f"{name}Request"]["title"], paths) for name, paths in apis.items()]
    more = {
        "common": "Fields of every API",
        "types": "Types",
        "mcp": "Agents (MCP)",
        "routes": "Other routes",
        "errors": "Errors",
        "headers": "Headers",
    }
    lines = [
        tag("li", link(f"#{name}", escape(title)), " ", tag("small", escape(" ".join(paths))))
        for name, title, paths in places
    ]
    lines += [tag("li", link(f"#{place}", escape(title))) for place, title in more.items()]
    return tag("nav", tag("ul", *lines), aria_label="Contents")


def _intro(document: Json) -> str:
    keys = (
        "This server needs a key, but for the pages and health: `Authorization: Bearer KEY`,"
        " `x-api-key: KEY` or `Api-Key: KEY`."
        if document["security"]
        else "This server needs no key."
    )
    return tag("section", prose(document["info"]["description"]), prose(keys), class_="card")


def _section(place: str, title: str, *parts: str, beside: str = "") -> str:
    heading = tag("h2", link(f"#{place}", escape(title)))
    return tag(
        "section", tag("div", heading, beside, class_="apart"), *parts, id=place, class_="card"
    )


def _api(document: Json, name: str, paths: Sequence[str]) -> str:
    schema = document["components"]["schemas"][f"{name}Request"]
    operation = document["paths"][paths[0]]["post"]
    asked, told = (
        part["content"]["application/json"]["examples"][name]["value"]
        for part in (operation["requestBody"], operation["responses"]["200"])
    )
    own = {field: of for field, of in properties(schema).items() if field not in COMMON}
    return _section(
        name,
        schema["title"],
        prose(schema["description"]),
        fields(own, schema.get("required", ())),
        tag("p", "And the ", link("#common", "fields of every API"), ".", class_="note"),
        _curl(paths[0], asked, needs_key=bool(document["security"])),
        _example("answers", told),
        _model(document["components"]["schemas"][f"{name}Answer"]),
        beside=_paths("POST", paths),
    )


def _paths(method: str, paths: Iterable[str]) -> str:
    return tag("p", *(tag("span", f"{method} {escape(path)}", class_="path") for path in paths))


def _type(named: tuple[str, Json]) -> str:
    name, schema = named
    return tag("h3", name, id=f"type-{name}") + prose(str(schema["description"]))


def _model(answer: Json) -> str:
    """The fields of an answer, folded."""
    return tag("details", tag("summary", "Fields of the answer"), answers(answer))


def _curl(path: str, body: object, *, needs_key: bool, more: str = "") -> str:
    quoted = pretty(body).replace("'", "'\\''")
    key = " \\\n  -H 'authorization: Bearer YOUR_KEY'" if needs_key else ""
    words = f"{escape(path)} \\\n  -H 'content-type: application/json'{more}{key} \\\n  -d '"
    base = tag("span", ADDRESS, class_="address")
    call = f"curl -s {base}{words}{escape(quoted, quote=False)}'"
    return tag("pre", call, class_="call", tabindex="0")


def _example(word: str, value: object) -> str:
    shown = tag("pre", escape(pretty(value), quote=False), tabindex="0")
    return tag("p", word, class_="note") + shown


def _agents(operation: Json, *, needs_key: bool) -> str:
    asked = operation["requestBody"]["content"]["application/json"]["example"]
    told = operation["responses"]["200"]["content"]["application/json"]["example"]
    accept = " \\\n  -H 'accept: application/json, text/event-stream'"
    return _section(
        "mcp",
        operation["summary"],
        prose(operation["description"]),
        _curl(agent.PATH, asked, needs_key=needs_key, more=accept),
        _example("answers", told),
        beside=_paths("POST", [agent.PATH]),
    )


def _telling(paths: Json) -> Iterable[str]:
    for path, operations in paths.items():
        if operation := operations.get("get"):
            yield tag("h3", _paths("GET", [path])) + prose(operation["summary"] + ".")
            content = operation["responses"]["200"]["content"].get("application/json", {})
            if content.get("schema", {}).get("properties"):
                shown = _example("answers", content["example"]) + answers(content["schema"])
                yield tag("details", tag("summary", "The answer"), shown)


def _errors(components: Json) -> str:
    rows, shown = [], ""
    for response in components["responses"].values():
        value = response["content"]["application/json"]["examples"]["Error"]["value"]
        error, words = value["error"], prose(response["description"])
        named = "".join(code(name) for name in response["headers"] if name != REQUEST_ID)
        rows.append((code(str(error["code"])), code(error["type"]), words + named))
        shown = shown or _example("A body", value)
    return table(("Status", "`type`", "When"), rows) + shown


def _headers(components: Json) -> str:
    rows = [(code(name), prose(of["description"])) for name, of in components["headers"].items()]
    return table(("Header", "Meaning"), rows)
