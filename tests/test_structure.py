"""The laws of the house, read from the source itself."""

import ast
from pathlib import Path

import pytest

from tests.harness import ROOT

ROOMS = ("serve", "clients", "deploy", "benchmarks")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PURE = [
    ROOT / "serve" / f"{name}.py"
    for name in (
        "spec",
        "shelf",
        "stack",
        "stack_yaml",
        "sharing",
        "exposition",
        "heads",
        "line",
        "job",
        "pace",
        "health",
        "reader",
        "argv",
        "rerank",
        "known",
        "texts",
        "specials",
        "bounds",
        "words",
        "lengths",
        "chunks",
        "paths",
        "vllm_log",
        "errors",
        "openapi",
        "openapi_errors",
        "openapi_routes",
        "docs",
        "docs_models",
        "headers",
        "markup",
    )
] + sorted((ROOT / "serve" / "dialects").glob("*.py"))
PURE += [
    ROOT / "clients" / f"{name}.py"
    for name in (
        "compare",
        "report",
        "wire",
        "errors",
        "retry",
        "bulk/plan",
        "bulk/records",
        "examples/__init__",
    )
]
PURE += [
    ROOT / "deploy" / "vast" / f"{name}.py"
    for name in ("plan", "offers", "instance", "snippets", "recipe")
]
PURE += [
    ROOT / "benchmarks" / f"{name}.py"
    for name in (
        "outcome",
        "load/arrivals",
        "load/latency",
        "load/results",
        "load/targets",
        "load/texts",
        "peers/agreement",
        "peers/subjects",
        "peers/texts",
        "peers/verdicts",
    )
]
DOES_IO = {"asyncio", "subprocess", "socket", "http", "urllib", "threading", "selectors", "os"}
WEB = {"aiohttp", "starlette", "uvicorn", "fastapi", "httpx", "requests", "uvloop", "httptools"}
LONGEST_FILE = 250
LONGEST_FUNCTION = 45


def imports(path: Path) -> set[str]:
    """Every module that a file imports, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PURE, ids=name)
def test_the_core_does_no_io(path: Path):
    assert not roots(path) & (DOES_IO | WEB)
    ours = {found for name in imports(path) if (found := source(name)) is not None}
    assert ours <= {*PURE, ROOT / "serve" / "__init__.py"}


def source(name: str) -> Path | None:
    """The file of ours that an import is of: the module, or the one that holds what is named."""
    parts = name.split(".") if name.startswith(tuple(f"{room}." for room in ROOMS)) else []
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                return file
    return None


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_vllm_is_never_imported(path: Path):
    assert "vllm" not in roots(path)
    assert "import_module" not in path.read_text()


def test_only_the_engine_talks_http_to_vllm():
    users = {name(path) for path in SOURCES if "serve.connection" in imports(path)}
    assert users == {"serve/engine.py"}
    clients = {"aiohttp", "httpx", "requests", "urllib3", "urllib.request", "http.client"}
    for path in (ROOT / "serve").rglob("*.py"):
        assert not imports(path) & clients, path


def test_clients_never_import_the_server():
    for path in (ROOT / "clients").rglob("*.py"):
        assert not roots(path) & {"serve", "deploy", "benchmarks", "tests"}, path


def test_the_environment_is_read_on_the_command_line_only():
    readers = {
        name(path)
        for path in (ROOT / "serve").rglob("*.py")
        if {"os.environ", "os.getenv"} & set(attributes(path))
    }
    assert readers == {"serve/__main__.py"}


def attributes(path: Path) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    ]


def test_only_the_command_line_and_the_guard_print():
    for path in (ROOT / "serve").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            assert path.name in ("__main__.py", "guard.py")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_small(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_and_class_says_what_it_is(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "a module without a docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            errors_tree = path.name == "errors.py"  # drawn in the module's docstring
            assert ast.get_docstring(node) or errors_tree, f"{node.name} has no docstring"


def test_every_request_error_has_a_status_and_a_code_of_its_own():
    from serve import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RequestError)
    ]
    kinds.remove(errors.RequestError)
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "") and str(kind.status) in (
            errors.__doc__ or ""
        )
