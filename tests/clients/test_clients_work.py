"""The clients that people have rank by this server, with the real vLLM and keys switched on.

Each function in `scripts/` (and `node/`) is a call as a user writes it. It must give the simple
route's scores to the last digit. A new client is a new script; its environment's lock file, if it
needs another one, is in `lock/`. `make test-clients` makes the environments and runs this.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.environments import FOLDER, HERE, NODE
from tests.conftest import VLLM_READY_S
from tests.harness import ROOT, Server, write_config

KEY = "sk-the-right-key"
QUERY = "What is Deep Learning?"
DOCUMENTS = [
    "I like pizza",
    "Deep learning uses neural networks with many layers",
    "Überraschung: 深度学习 ☕",
    "The weather is nice today",
    "Machines learn from data",
    "Networks of many layers learn deeply. " * 60,  # longer than the model reads
]
TOP_N = 2
# Names that clients have built in, given to the model as a user of them would do it.
BUILT_IN = "jina-reranker-v2-base-multilingual, rerank-v3.5"
# No SDK reports to its makers, and whatever else would leave this machine finds a closed door.
SILENCE = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
    "NVIDIA_USAGE_TELEMETRY_ENABLED": "false",
}
SAYS = {
    "unknown_model": "There is no model 'no-such-model' here",
    "wrong_key": "This server needs an API key",
}


@dataclass(frozen=True)
class Script:
    """One client's calls, and what the file says about them."""

    path: Path
    functions: tuple[str, ...]
    constants: Mapping[str, str]

    def words(self, name: str) -> list[str]:
        return self.constants.get(name, "").split()


def read_python(path: Path) -> Script:
    tree = ast.parse(path.read_text())
    functions = [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    ours = tuple(name for name in functions if not name.startswith("_"))
    return Script(path, ours, constants)


def read_node(path: Path) -> Script:
    text = path.read_text()
    functions = re.findall(r"^export async function (\w+)", text, re.MULTILINE)
    constants = dict(re.findall(r'^export const (\w+) = "(.*)";', text, re.MULTILINE))
    return Script(path, tuple(functions), {"ENVIRONMENTS": "node", **constants})


SCRIPTS = [read_python(path) for path in sorted((HERE / "scripts").glob("*.py"))]
SCRIPTS += [read_node(path) for path in sorted(NODE.glob("*.mjs")) if path.stem != "run"]
CALLS = [
    pytest.param(script, environment, function, id=f"{environment}-{script.path.stem}-{function}")
    for script in SCRIPTS
    for environment in script.words("ENVIRONMENTS")
    for function in script.functions
]
calls = pytest.mark.parametrize(("script", "environment", "function"), CALLS)
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("clients")
    minilm = (ROOT / "configs" / "minilm.yaml").read_text()
    config = work / "minilm.yaml"
    named = minilm.replace("names: [minilm,", f"names: [minilm, {BUILT_IN},")
    config.write_text(named + "cache: 0\n")  # each client's own scores, not those of one before
    with Server(config, work, vllm=None, env={"RERANK_API_KEY": KEY}) as server:
        yield server.until_ready(VLLM_READY_S)


@cache
def run(script: Path, environment: str, url: str, key: str, model: str) -> dict[str, Any]:
    """What `run.py` (or `run.mjs`) finds out about every call of a script."""
    program = {"own": sys.executable, "node": "node"}.get(
        environment, str(FOLDER / environment / "bin" / "python")
    )
    assert shutil.which(program), f"there is no {program}: `make test-clients` makes it"
    runner = NODE / "run.mjs" if environment == "node" else HERE / "run.py"
    task = {"url": url, "key": key, "model": model, "query": QUERY, "documents": DOCUMENTS}
    ran = subprocess.run(
        [program, str(runner), str(script)],
        input=json.dumps({**task, "top_n": TOP_N}),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **SILENCE},
    )
    assert ran.returncode == 0, ran.stderr
    facts: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return facts


@cache
def simple_scores(url: str, texts: tuple[str, ...], *, raw: bool) -> list[float]:
    """What the simple route gives."""
    answer = requests.post(
        f"{url}/rerank",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"query": QUERY, "passages": texts, "use_activation": not raw},
        timeout=60,
    )
    assert answer.ok, answer.text
    scores: list[float] = answer.json()
    return scores


def check_ranking(url: str, results: Any, wanted: int) -> None:
    """The simple route's scores, its order, and the documents beside their own scores."""
    assert isinstance(results, list), results
    given = {r["index"]: r for r in results}
    raw = "logit" in results[0]
    texts = tuple(given.get(i, {}).get("scored", text) for i, text in enumerate(DOCUMENTS))
    expected = simple_scores(url, texts, raw=raw)
    best = sorted(range(len(DOCUMENTS)), key=lambda i: -expected[i])[:wanted]
    found = [(r["index"], r["logit" if raw else "score"]) for r in results]
    assert found == [(i, expected[i]) for i in best]
    for result in results:
        assert result.get("document", DOCUMENTS[result["index"]]) == DOCUMENTS[result["index"]]


@calls
def test_a_client_ranks_as_the_simple_route_scores(
    server: Server, script: Script, environment: str, function: str
):
    facts = run(script.path, environment, server.url, KEY, "minilm")[function]
    check_ranking(server.url, facts["all"], len(DOCUMENTS))
    if "top" in facts:
        check_ranking(server.url, facts["top"], TOP_N)


@calls
def test_a_client_hears_what_is_wrong(
    server: Server, script: Script, environment: str, function: str
):
    facts = run(script.path, environment, server.url, KEY, "minilm")[function]
    assert "wrong_key" in facts
    for mistake in SAYS.keys() & facts.keys():
        found = facts[mistake]
        kind = found["error"].rpartition(".")[2]
        assert kind in script.words(mistake.upper()), found
        assert SAYS[mistake] in found["text"] or kind in script.words("HIDES"), found


@pytest.fixture(scope="session")
def server_without_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("without-keys")
    with Server(write_config(work, "cache: 0\nvllm: {max-model-len: 256}\n"), work) as server:
        yield server.until_ready()


@pytest.mark.parametrize("name", ["dify", "open_webui", "ragflow"])
def test_platforms_without_a_key_use_a_server_without_keys(server_without_keys: Server, name: str):
    """They send no header, `Bearer ` or even `Bearer None`."""
    facts = run(HERE / "scripts" / f"{name}.py", "own", server_without_keys.url, "", "fake")
    for function, found in facts.items():
        assert isinstance(found["all"], list), (function, found)
        assert len(found["all"]) == len(DOCUMENTS)
