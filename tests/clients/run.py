"""Calls every function of one client's script, in that client's own environment.

`run.py SCRIPT`, with the task as JSON on standard input: `{url, key, model, query, documents,
top_n}`. The last line of the output is JSON: what each function gave for `top_n` of the documents
and for all of them, and which errors came of an unknown model and of a wrong key.
"""

import asyncio
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

WRONG = {"unknown_model": {"model": "no-such-model"}, "wrong_key": {"key": "wrong-key"}}


def main() -> None:
    task = json.load(sys.stdin)
    script = load(Path(sys.argv[1]))
    print("\n" + json.dumps({name: facts(call, task) for name, call in calls(script).items()}))


def load(path: Path) -> ModuleType:
    """The script under a name of its own: it may be called as the SDK that it imports."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(script: ModuleType) -> dict[str, Any]:
    functions = inspect.getmembers(script, inspect.isfunction)
    return {name: call for name, call in functions if is_ours(name, call, script)}


def is_ours(name: str, call: Any, script: ModuleType) -> bool:
    return call.__module__ == script.__name__ and not name.startswith("_")


def facts(call: Any, task: dict[str, Any]) -> dict[str, Any]:
    """What came of asking. A function that does not take an argument is not asked about it."""
    takes = set(inspect.signature(call).parameters)
    found = {"all": attempt(call, {**task, "top_n": len(task["documents"])})}
    if "top_n" in takes:
        found["top"] = attempt(call, task)
    for name, wrong in WRONG.items():
        if takes >= set(wrong):
            found[name] = attempt(call, {**task, **wrong})
    return found


def attempt(call: Any, arguments: dict[str, Any]) -> Any:
    """The results, or the error as `{type, text}`."""
    given = {name: arguments[name] for name in inspect.signature(call).parameters}
    try:
        answer = call(**given)
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer
    except Exception as error:
        kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
        return {"error": kinds[0], "text": str(error)}


if __name__ == "__main__":
    main()
