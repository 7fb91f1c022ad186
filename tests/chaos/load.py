"""Load for tests and benchmarks: many clients of the simple route, whose every answer is checked.

    async with Load(url, expected, connections=200) as load:
        records = await load.open_loop(mix({1: 3, 50: 1}), bursty(rate=100, seconds=10))
    print(summarise(records))

In an open loop requests come when they come, as from clients of the world, however slow the
answers are; in a closed loop each client waits for its answer before it asks again.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import orjson

from tests.chaos.traffic import GAVE_UP, LOST, UNSENT, Ask, Expected, Record, is_wrong

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = tuple[int, Mapping[str, str], bytes]  # status, fields of the head, body


class Load:
    """Asks the server at `url` (plain HTTP), over at most `connections` at once. Use as an async
    context manager. `within` is how far a score may be from the expected one."""

    def __init__(
        self,
        url: str,
        expected: Expected,
        *,
        connections: int = 100,
        within: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._expected = expected
        self._within = within
        self._free = connections
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._idle: list[Connection] = []

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *_: object) -> None:
        for _, writer in self._idle:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for _, w in self._idle), return_exceptions=True)

    async def open_loop(self, asks: Iterator[Ask], moments: Sequence[float]) -> list[Record]:
        """Sends a request at each of `moments`, in seconds from now, and waits for all answers.

        One for which no connection is free is not sent, and recorded as such.
        """
        begin, tasks = _now(), []
        for moment in moments:
            if (wait_s := begin + moment - _now()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(self._record(next(asks), begin)))
            await asyncio.sleep(0)  # a loop that is late still sends each before it makes the next
        return list(await asyncio.gather(*tasks))

    async def closed_loop(
        self, asks: Iterator[Ask], *, clients: int, seconds: float
    ) -> list[Record]:
        """`clients` that each ask again once they are answered, for so many seconds."""
        begin, records = _now(), list[Record]()

        async def client() -> None:
            while _now() < begin + seconds:
                records.append(await self._record(next(asks), begin))

        await asyncio.gather(*(client() for _ in range(clients)))
        return records

    async def ask(self, ask: Ask) -> Record:
        """One request."""
        return await self._record(ask, _now())

    async def _record(self, ask: Ask, origin: float) -> Record:
        begin, pairs = _now() - origin, len(ask.passages)
        if not self._free:
            return Record(begin, begin, pairs, UNSENT)
        self._free -= 1
        try:
            async with asyncio.timeout(ask.patience_s):
                status, fields, body = await self._exchange(ask)
        except TimeoutError:
            return Record(begin, _now() - origin, pairs, GAVE_UP)
        except (OSError, asyncio.IncompleteReadError):
            return Record(begin, _now() - origin, pairs, LOST)
        finally:
            self._free += 1
        end = _now() - origin
        wrong = is_wrong(ask, status, body, self._expected, self._within)
        told = body[:300].decode(errors="replace") if wrong or status != 200 else ""
        return Record(begin, end, pairs, str(status), wrong, fields.get("retry-after"), told)

    async def _exchange(self, ask: Ask) -> Answer:
        """The answer, over a connection of before or a new one, which is closed unless it is whole.

        Raises OSError, IncompleteReadError.
        """
        reader, writer = await self._take()
        is_usable = False
        try:
            writer.write(self._request(ask))
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in lines[1:] if line)
            fields = {name.lower(): value for name, _, value in pairs}
            body = await reader.readexactly(int(fields["content-length"]))
            is_usable = fields.get("connection", "") != "close"
        finally:
            if is_usable:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()
        return int(lines[0].split(" ")[1]), fields, body

    async def _take(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection(self._host, self._port)

    def _request(self, ask: Ask) -> bytes:
        body = orjson.dumps({"query": ask.query, "passages": ask.passages})
        fields = {**self._headers, **ask.headers, "content-length": len(body)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"POST /rerank HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n{lines}\r\n"
        return head.encode() + body


def _now() -> float:
    return asyncio.get_running_loop().time()
