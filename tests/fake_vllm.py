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
                   | !slow SECONDS

How fast it works, what befalls all requests, and what it was asked:

    FAKE_PAIR_S      seconds of work for each pair, one request after the other by `priority`, then
                     by arrival, as vLLM does. Pairs that are not begun when their connection closes
                     are never worked on
    FAKE_FAULT_FILE  a file that is read at each `/score`: while it holds one of the words above,
                     without its `!`, that befalls every request
    FAKE_METRICS_FILE  a file with what is told at `/metrics`; while it holds `hang`, nothing is
    FAKE_TRACE_FILE  a file that each `/score` appends its `traceparent` to, `-` without one
    FAKE_WATCH_FILE  a file that each event appends a line to, `asked 3 PID` or `cancelled 3 PID`:
                     so many pairs came, or their connection closed before they were answered

`{}` in the name of a file stands for the number of the engine, as its socket's folder has it.
"""

import asyncio
import heapq
import json
import math
import os
import re
import signal
import subprocess
import sys
import zlib
from itertools import count
from pathlib import Path

HANG_S = 3600
JSON_HEADERS = b"content-type: application/json\r\n"
METRICS = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{implementation="CPython",major="3"} 1.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="fake"} 0.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="fake"} 0.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="fake"} 12.0
# HELP vllm:request_queue_time_seconds Histogram of time spent in WAITING phase for request.
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="fake"} 2.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="fake"} 2.0
vllm:request_queue_time_seconds_count{engine="0",model_name="fake"} 2.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="fake"} 0.01
"""


def logit(query: str, passage: str) -> float:
    """What this engine thinks of a pair: any value of -12..12, the same every time."""
    if wish := os.environ.get("FAKE_SCORES"):
        words, found = set(query.lower().strip("?").split()), set(passage.lower().split())
        return len(words & found if wish == "shared" else words - found) / len(words)
    return zlib.crc32(f"{query}\0{passage}".encode()) / 2**32 * 24 - 12


def score(body: dict, wish: str) -> tuple[int, bytes]:
    """Status and body of `/score`."""
    query, passages = body["queries"], body["documents"]
    queries = [query] * len(passages) if isinstance(query, str) else query
    values = [logit(*pair) for pair in zip(queries, passages, strict=True)]
    if wish in ("nan", "inf", "null"):
        values[-1] = {"nan": float("nan"), "inf": float("inf"), "null": None}[wish]
    if wish == "short":
        values.pop()
    if wish == "garbage":
        return 200, b"<html>not a score</html>"
    if wish in ("500", "503", "400"):
        status = int(wish)
        return status, json.dumps({"error": {"message": "as you wished", "code": status}}).encode()
    data = [{"index": i, "object": "score", "score": v} for i, v in enumerate(values)]
    tokens = sum(len(p.split()) for p in passages)
    return 200, json.dumps({"data": data, "usage": {"prompt_tokens": tokens}}).encode()


def wishes(query: str) -> list[str]:
    """What is to befall a request, with its argument: by the file of faults, else by its query."""
    fault = file_of("FAKE_FAULT_FILE")
    if fault and fault.exists() and (words := fault.read_text().split()):
        return words
    return query[1:].split() if query.startswith("!") else []


def metrics() -> str:
    """What is told at `/metrics`."""
    file = file_of("FAKE_METRICS_FILE")
    return file.read_text().strip() if file and file.exists() else METRICS


def note_trace(head: bytes) -> None:
    if file := file_of("FAKE_TRACE_FILE"):
        found = re.search(rb"\r\ntraceparent: (\S+)", head)
        with file.open("a") as lines:
            lines.write(f"{found[1].decode() if found else '-'}\n")


def watch(event: str, pairs: int) -> None:
    if file := file_of("FAKE_WATCH_FILE"):
        with file.open("a") as lines:
            lines.write(f"{event} {pairs} {os.getpid()}\n")


def file_of(variable: str) -> Path | None:
    name = os.environ.get(variable)
    number = re.search(r"/engine-(\d+)", " ".join(sys.argv))
    return Path(name.replace("{}", number[1] if number else "")) if name else None


class Job:
    """Pairs that were asked for and are owed."""

    def __init__(self, pairs: int, priority: int = 0) -> None:
        self.pairs = pairs
        self.priority = priority
        self.asked = asyncio.get_running_loop().time()
        self.gone = asyncio.Event()  # nobody waits for them any more
        self.waits: asyncio.Task[None] | None = None


class Engine:
    """Works on one pair at a time, each for FAKE_PAIR_S seconds, the lowest priority first.

    It counts its time itself, so that its rate is right also where the loop wakes late.
    """

    def __init__(self) -> None:
        self.pair_s = float(os.environ.get("FAKE_PAIR_S", "0"))
        self.free_at = 0.0  # by the loop's clock
        self.is_busy = False
        self.waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self.arrivals = count()

    async def work(self, job: Job) -> bool:
        """Whether the job is done, and not gone."""
        if not self.pair_s:
            return True
        if self.is_busy:
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self.waiting, (job.priority, next(self.arrivals), turn))
            await turn
        self.is_busy = True
        try:
            return await self.work_now(job)
        finally:
            if self.waiting:
                heapq.heappop(self.waiting)[-1].set_result(None)
            else:
                self.is_busy = False

    async def work_now(self, job: Job) -> bool:
        if job.gone.is_set():
            return False
        begin = max(job.asked, self.free_at)
        end = begin + job.pairs * self.pair_s
        try:
            async with asyncio.timeout_at(end):
                await job.gone.wait()
        except TimeoutError:
            self.free_at = end
            return True
        worked_s = max(0.0, asyncio.get_running_loop().time() - begin)
        begun = min(job.pairs, math.ceil(worked_s / self.pair_s))
        self.free_at = begin + begun * self.pair_s
        return False


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and content-length, as much as the gateway's client uses of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.owed: set[Job] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.buffer = b""

    def connection_lost(self, _: Exception | None) -> None:
        for job in self.owed:
            job.gone.set()
            watch("cancelled", job.pairs)

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
        if self.transport.is_closing():
            return None
        path = head.split(b" ", 2)[1].decode()
        if path == "/health":
            return self.send(200, b"")
        if path == "/score":
            note_trace(head)
            return self.score(json.loads(body))
        if path == "/metrics":
            told = metrics()
            return None if told == "hang" else self.send(200, told.encode())
        log(f"asked for {path}")
        kind = "/v1/embeddings" if os.environ.get("FAKE_BOOT") == "embedding" else "/classify"
        return self.send(400 if path == kind else 404, b'{"error": {"message": "no"}}')

    def score(self, body: dict) -> None:
        query = body["queries"]
        wish, *rest = wishes(query if isinstance(query, str) else query[0]) or [""]
        job = Job(len(body["documents"]), body.get("priority", 0))
        watch("asked", job.pairs)
        if wish == "die":
            os._exit(9)
        if wish == "drop":
            return self.transport.close()
        self.owed.add(job)
        slow_s = float(rest[0]) if wish == "slow" else 0.0
        if wish == "hang":
            return None
        if not slow_s and not self.engine.pair_s:
            return self.done(job, body, wish)
        job.waits = asyncio.create_task(self.work(job, body, wish, slow_s))
        return None

    async def work(self, job: Job, body: dict, wish: str, slow_s: float) -> None:
        if await self.engine.work(job):
            await asyncio.sleep(slow_s)
            self.done(job, body, wish)

    def done(self, job: Job, body: dict, wish: str) -> None:
        if not job.gone.is_set():
            self.owed.remove(job)
            self.send(*score(body, wish))

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
    engine = Engine()
    serve = asyncio.get_running_loop().create_unix_server
    server = await serve(lambda: Connection(engine), socket)
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
