"""A program that takes vLLM's command line and answers like it, until it is asked to misbehave.

It is a real process on a real socket, for the faults and the speed that the real vLLM cannot show.
How it starts is said by environment variables, how it answers by the first word of the query:

    FAKE_BOOT      late | die | oom | hang | embedding (offers no /classify)
    FAKE_LIFE_S    seconds after which it dies
    FAKE_STUBBORN  1: it and its child ignore SIGTERM
    FAKE_DELAY_S   seconds before each answer
    FAKE_SCORES    shared: the share of the query's words that a passage has too; unshared: of those
                   that it has not. Unset: any value
    query          !die | !hang | !drop | !nan | !inf | !null | !short | !garbage | !400 … !503
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import zlib

HANG_S = 3600
JSON_HEADERS = b"content-type: application/json\r\n"


def logit(query: str, passage: str) -> float:
    """What this engine thinks of a pair: any value of -12..12, the same every time."""
    if wish := os.environ.get("FAKE_SCORES"):
        words, found = set(query.lower().strip("?").split()), set(passage.lower().split())
        return len(words & found if wish == "shared" else words - found) / len(words)
    return zlib.crc32(f"{query}\0{passage}".encode()) / 2**32 * 24 - 12


def score(body: dict) -> tuple[int, bytes]:
    """Status and body of `/score`."""
    query, passages = body["queries"], body["documents"]
    queries = [query] * len(passages) if isinstance(query, str) else query
    values = [logit(*pair) for pair in zip(queries, passages, strict=True)]
    wish = queries[0].split(" ")[0] if queries[0].startswith("!") else ""
    if wish in ("!nan", "!inf", "!null"):
        values[-1] = {"!nan": float("nan"), "!inf": float("inf"), "!null": None}[wish]
    if wish == "!short":
        values.pop()
    if wish == "!garbage":
        return 200, b"<html>not a score</html>"
    if wish in ("!500", "!503", "!400"):
        status = int(wish[1:])
        return status, json.dumps({"error": {"message": "as you wished", "code": status}}).encode()
    data = [{"index": i, "object": "score", "score": v} for i, v in enumerate(values)]
    tokens = sum(len(p.split()) for p in passages)
    return 200, json.dumps({"data": data, "usage": {"prompt_tokens": tokens}}).encode()


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and content-length, as much as the gateway's client uses of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            low = head.lower()
            at = low.find(b"content-length:")
            length = int(low[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            delay = float(os.environ.get("FAKE_DELAY_S", "0"))
            if delay:
                asyncio.get_running_loop().call_later(delay, self.answer, head, body)
            else:
                self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path == "/health":
            return self.send(200, b"")
        if path == "/score":
            query = json.loads(body)["queries"]
            wish = (query if isinstance(query, str) else query[0]).split(" ")[0]
            if wish == "!die":
                os._exit(9)
            if wish == "!hang":
                return None
            if wish == "!drop":
                return self.transport.close()
            return self.send(*score(json.loads(body)))
        kind = "/v1/embeddings" if os.environ.get("FAKE_BOOT") == "embedding" else "/classify"
        return self.send(400 if path == kind else 404, b'{"error": {"message": "no"}}')

    def send(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n" % (status, JSON_HEADERS, len(body))
        self.transport.write(head + body)


async def main(socket: str) -> None:
    boot = os.environ.get("FAKE_BOOT", "")
    log("INFO 11-22 14:40:07 [model.py:733] Resolved architecture: FakeModel")
    if boot == "die":
        log("ERROR 11-22 14:40:08 [core.py:9] ValueError: the first error, which explains it")
        log("RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(1)
    if boot == "oom":
        log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        sys.exit(1)
    if boot == "hang":
        await asyncio.sleep(HANG_S)
    print("model.safetensors:  42%|####      | 420M/1.0G [00:01<00:02]", end="\r", flush=True)
    if boot == "late":
        await asyncio.sleep(1.5)
    log("INFO 11-22 14:40:23 [cpu_model_runner.py:68] Starting to load model fake...")
    print("Loading safetensors checkpoint shards: 100% Completed | 1/1", flush=True)
    if life := os.environ.get("FAKE_LIFE_S"):
        asyncio.get_running_loop().call_later(float(life), os._exit, 9)
    server = await asyncio.get_running_loop().create_unix_server(Connection, socket)
    log("INFO:     Application startup complete.")
    await server.serve_forever()


def log(line: str) -> None:
    print(f"(APIServer pid={os.getpid()}) {line}", flush=True)


if __name__ == "__main__":
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    plain = "import time; time.sleep(3600)"
    stubborn = os.environ.get("FAKE_STUBBORN") == "1"
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("FAKE_BOOT") not in ("die", "oom"):
        # The engine core: a process of its own, which nobody but the launcher will end.
        subprocess.Popen([sys.executable, "-c", ignore if stubborn else plain, "fake-engine-core"])
    try:
        import uvloop

        uvloop.run(main(sys.argv[sys.argv.index("--uds") + 1]))
    except ImportError:
        asyncio.run(main(sys.argv[sys.argv.index("--uds") + 1]))
