"""An engine that takes no time: vLLM's command line and routes, and answers that are there already.

`python -m benchmarks.peers.zero_engine PORT serve … --uds SOCKET` listens on SOCKET, as vLLM does
for our gateway, and on PORT of loopback for proxies that know no Unix sockets. It does not read a
question: it counts the texts under `documents`, which must hold no quotation mark and no bracket.
"""

import asyncio
import os
import sys
from functools import cache
from typing import cast

import httptools
import orjson
import uvloop

MODEL = "rerank"
_HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


@cache
def answer(path: bytes, count: int) -> bytes:
    """A whole HTTP answer, with `count` scores where `path` scores."""
    if path == b"/score":
        return _whole(200, {"data": _scores(count), "usage": {"prompt_tokens": 80 * count}})
    if path.endswith(b"/rerank"):
        results = [
            {"index": index, "document": None, "relevance_score": _value(index)}
            for index in range(count)
        ]
        usage = {"prompt_tokens": 80 * count, "total_tokens": 80 * count}
        return _whole(200, {"id": "rerank", "model": MODEL, "usage": usage, "results": results})
    if path == b"/health":
        return _whole(200, {})
    if path == b"/v1/models":
        return _whole(200, {"data": [{"id": MODEL, "max_model_len": 8192}]})
    return _whole(400 if path == b"/classify" else 404, {"error": {"message": "no"}})


def texts(body: bytes) -> int:
    """How many strings the list under `documents` has."""
    begin = body.find(b'"documents"')
    begin = body.find(b"[", begin) if begin >= 0 else begin
    return body.count(b'"', begin, body.find(b"]", begin)) // 2 if begin >= 0 else 0


def _value(index: int) -> float:
    return 0.9 - (index * 37 % 101) / 128  # any order, the same every time


def _scores(count: int) -> list[dict[str, object]]:
    return [{"index": i, "object": "score", "score": _value(i)} for i in range(count)]


def _whole(status: int, body: object) -> bytes:
    content = orjson.dumps(body)
    return _HEAD % (status, len(content)) + content


class Connection(asyncio.Protocol):
    """One connection: as many requests as come, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_begin(self) -> None:
        self._path = b""
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, chunk: bytes) -> None:
        self._body.append(chunk)

    def on_message_complete(self) -> None:
        self._transport.write(answer(self._path, texts(b"".join(self._body))))


async def serve(port: int, socket: str) -> None:
    """Until it is ended."""
    loop = asyncio.get_running_loop()
    await loop.create_server(Connection, "127.0.0.1", port)
    server = await loop.create_unix_server(Connection, socket)
    print(f"(APIServer pid={os.getpid()}) INFO:     Application startup complete.", flush=True)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    socket = arguments[arguments.index("--uds") + 1]
    uvloop.run(serve(int(arguments[0]), socket))


if __name__ == "__main__":
    main(sys.argv[1:])
