"""Our server as a peer: one of its models, through the gateway and on the engine's own socket."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.peers.subjects import DTYPES, Subject
from benchmarks.peers.worker import WorkerError
from serve.shelf import CONFIGS
from tests.harness import Server

READY_S = 600
TIMEOUT_S = 600.0
# What a measurement repeats must be computed each time.
UNCACHED = {"cache": 0}


class Served:
    """One model of a server, or of an engine where `model` is None."""

    settings: Sequence[Any] = (None,)

    def __init__(self, http: httpx.Client, version: str, model: str | None) -> None:
        self._http = http
        self.version = version
        self._named = {} if model is None else {"model": model}

    def score(
        self, query: str, passages: Sequence[str], setting: object
    ) -> tuple[list[float], float]:
        """Raw values and seconds, the request's way there and back included. Raises WorkerError."""
        body = {**self._named, "queries": query, "documents": passages, "use_activation": False}
        begin = time.perf_counter()
        try:
            answer = self._http.post("/score", json=body)
            seconds = time.perf_counter() - begin
            items = answer.raise_for_status().json()["data"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise WorkerError(str(error)) from error
        raw = {item["index"]: float(item.get("raw_score", item["score"])) for item in items}
        return [raw[index] for index in sorted(raw)], seconds

    def freeze(self) -> None:
        """It waits for requests in its own way, as it does in service."""

    def thaw(self) -> None:
        """It was not frozen."""


@contextmanager
def served(
    subject: Subject, folder: Path, work: Path
) -> Iterator[Mapping[tuple[str, str], Served]]:
    """(`ours` or `vllm`, type) → the subject as it is served, all types behind one gateway."""
    with Server(_stack(subject, folder, work), work, vllm=None) as server:
        server.until_ready(READY_S)
        gateway = httpx.Client(base_url=server.url, timeout=TIMEOUT_S)
        clients = [gateway]
        found = {("ours", dtype): Served(gateway, "ours", dtype) for dtype in DTYPES}
        for socket in sorted(server.run_dir.glob("*/engine-*/http.sock")):
            transport = httpx.HTTPTransport(uds=str(socket))
            http = httpx.Client(transport=transport, base_url="http://engine", timeout=TIMEOUT_S)
            clients.append(http)
            names = [model["id"] for model in http.get("/v1/models").json()["data"]]
            version = f"vllm {http.get('/version').json()['version']}"
            found |= {("vllm", name): Served(http, version, None) for name in names}
        try:
            yield found
        finally:
            for client in clients:
                client.close()


def _stack(subject: Subject, folder: Path, work: Path) -> Path:
    """A stack of the subject in each type, otherwise as its shipped config has it."""
    shipped = yaml.safe_load((CONFIGS / f"{subject.config}.yaml").read_text())
    for key in ("revision", "hardware", "names", "sha256"):
        shipped.pop(key, None)
    for dtype in DTYPES:
        cpu = {**shipped["cpu"], "vllm": {**shipped["cpu"]["vllm"], "dtype": dtype}}
        config = {**shipped, **UNCACHED, "model": str(folder), "names": [dtype], "cpu": cpu}
        (work / f"{dtype}.yaml").write_text(yaml.safe_dump(config))
    stack = work / "stack.yaml"
    models = {dtype: {"config": str(work / f"{dtype}.yaml")} for dtype in DTYPES}
    stack.write_text(yaml.safe_dump({"models": models}))
    return stack
