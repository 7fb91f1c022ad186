"""A real HTTP server that counts what it is asked and misbehaves as a test says."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fake_vllm import logit
from tests.readers import sigmoid

# Status, headers and body of an answer; a status of 0 drops the connection without one.
Answer = tuple[int, Mapping[str, str], bytes]
MODEL = {"id": "scripted", "root": "scripted", "revision": "1", "default": True, "llm": False}


def ranking(body: Mapping[str, Any], **top: object) -> Answer:
    """A right answer of a ranked route."""
    texts = body["documents"]
    raw = [logit(body["query"], text) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-raw[i], i))[: body.get("top_n")]
    results = [{"index": i, "relevance_score": sigmoid(raw[i]), "raw_score": raw[i]} for i in order]
    return 200, {}, json.dumps({"results": results, **top}).encode()


def plain(body: Mapping[str, Any]) -> Answer:
    """A right answer of the score route."""
    scores = [sigmoid(logit(body["text_1"], text)) for text in body["text_2"]]
    data = [{"index": i, "score": score} for i, score in enumerate(scores)]
    return 200, {}, json.dumps({"data": data}).encode()


def refusing(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as our server words it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, names, json.dumps({"error": {"message": message, "param": "p"}}).encode()


class Scripted:
    """The server. `answers` are given one after the other, then right ones; `meddle` may give one
    for a body in place of the right one. Use as a context manager.

    `asked` counts the pairs (query, passage) of every request, `answered` of those whose answer was
    sent; `bodies` are all requests.
    """

    def __init__(
        self,
        answers: Iterable[Answer] = (),
        *,
        meddle: Callable[[Mapping[str, Any]], Answer | None] = lambda body: None,
        models: list[dict[str, object]] | None = None,
        delay_s: float = 0,
    ) -> None:
        self._answers, self._meddle = iter(answers), meddle
        self.models = [MODEL] if models is None else models
        self.delay_s = delay_s
        self.asked: Counter[tuple[str, str]] = Counter()
        self.answered: Counter[tuple[str, str]] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.gate = threading.Event()  # no answer leaves while it is closed
        self.gate.set()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "Scripted":
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        pairs = [
            (body.get("query", ""), text) for text in body.get("documents", body.get("text_2", []))
        ]
        with self._lock:
            self.bodies.append(body)
            self.asked.update(pairs)
            scripted = next(self._answers, None)
        self.gate.wait()
        time.sleep(self.delay_s)
        right = plain if path.endswith("/score") else ranking
        answer = scripted or self._meddle(body) or right(body)
        with self._lock:
            self.answered.update(pairs)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_GET(self) -> None:
                known = self.path == "/v1/models" and script.models
                self._send(
                    (200, {}, json.dumps({"data": script.models}).encode())
                    if known
                    else refusing(404)
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._send(script.answer(self.path, body))

            def _send(self, answer: Answer) -> None:
                status, headers, body = answer
                if status == 0:
                    self.close_connection = True
                    return
                try:
                    self.send_response_only(status)  # no Date of its own
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-type", "application/json")
                    if "content-length" not in headers:  # one that is wrong is meant so
                        self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # who asked is gone, as tests mean it
                    self.close_connection = True

        return Handler
