"""An answer's head and body in one write, which uvicorn makes two of: a system call costs more than
all that is done for it here."""

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Together:
    """Stands in a cycle of uvicorn's for its transport: keeps a head until its body comes."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._head: bytes | None = None
        self._is_begun = False

    def write(self, data: bytes) -> None:
        if self._head is not None:
            self._transport.writelines((self._head, data))
            self._head = None
        elif self._is_begun or not self._cycle.response_started:  # more of it; "100 Continue"
            self._transport.write(data)
        else:
            self._head, self._is_begun = data, True

    def flush(self) -> None:
        """Writes a head that no body comes with."""
        if self._head is not None:
            self._transport.write(self._head)
            self._head = None

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()
