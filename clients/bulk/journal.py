"""Every answer as soon as it is there, so that a run that was killed goes on where it was.

The journal is one file of JSON lines. The first says of which input, options and model it is; each
other one is a reply. Lines are only ever appended, a few at a time and synced, and the end that a
kill left unfinished is cut off when the file is opened again: what a line says was answered, and
what was answered and told is in a line.

Replies stand in the order of their coming. Those far ahead are not sent for (see dispatch.py), so
that what is known of a journal fits in memory, and reading it in order does too.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import IO

from clients.bulk.plan import Reply
from clients.bulk.tables import WrongUse
from clients.wire import Chunk, Ranked

Header = Mapping[str, object]


class Journal:
    """The file at `path`, opened for this process alone. Use as a context manager.

    Raises WrongUse when it is of another run, or another process writes it.
    """

    def __init__(self, path: Path, header: Header, *, restart: bool = False) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
        self._next = 0  # every request below has its reply
        self._ahead: set[int] = set()
        try:
            lock(self._file, path)
            if restart:
                self._file.truncate(0)
            self._open(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _open(self, header: Header) -> None:
        with self.path.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):  # new, or killed before it said anything
                self._file.truncate(0)
                self._append([header])
                _sync_folder(self.path)
                return
            changed = _changed(first, header)
            end = len(first)
            for line in file:
                if changed:  # nothing is lost by beginning anew before the first reply
                    raise _of_another_run(self.path, changed)
                reply = _decode(line)
                if reply is None:
                    break
                self._note(reply.n)
                end += len(line)
        self._file.truncate(0 if changed else end)
        if changed:
            self._append([header])

    def _note(self, n: int) -> None:
        self._ahead.add(n)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1

    def has(self, n: int) -> bool:
        """Whether request `n` has its reply."""
        return n < self._next or n in self._ahead

    @property
    def count(self) -> int:
        """How many requests have their reply."""
        return self._next + len(self._ahead)

    def append(self, replies: Sequence[Reply]) -> None:
        """Keeps replies; they are on the disk when this returns. Raises OSError."""
        self._append([_encode(reply) for reply in replies])
        for reply in replies:
            self._note(reply.n)

    def _append(self, values: Sequence[object]) -> None:
        text = "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)
        left = memoryview(text.encode())
        while left:  # the file has no buffer, and a write may be short
            left = left[self._file.write(left) or 0 :]
        os.fsync(self._file.fileno())

    def replies(self) -> Iterator[Reply]:
        """Every reply kept, in the order of their coming."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                if reply := _decode(line):
                    yield reply


def lock(file: IO[bytes], path: Path) -> None:
    """Keeps an open file for this process, until it is closed. Raises WrongUse."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise WrongUse(f"{path} is being written by another process") from error


def _encode(reply: Reply) -> object:
    if reply.refusal is not None:
        return {"n": reply.n, "refusal": reply.refusal}
    items = [
        [i.index, i.score, i.raw_score, i.truncated, i.stage, i.chunk and astuple(i.chunk)]
        for i in reply.items
    ]
    return {"n": reply.n, "items": items}


def _decode(line: bytes) -> Reply | None:
    """The reply of a whole line, or None of one that is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
        if "refusal" in value:
            return Reply(value["n"], refusal=value["refusal"])
        items = [
            Ranked(index, score, "", raw, cut, stage, chunk and Chunk(*chunk))
            for index, score, raw, cut, stage, chunk in value["items"]
        ]
        return Reply(value["n"], items)
    except (ValueError, TypeError, KeyError):
        return None


def _changed(first: bytes, header: Header) -> Sequence[str]:
    """What the first line says otherwise than `header`."""
    try:
        found = json.loads(first)
        return [name for name, value in header.items() if found.get(name) != value]
    except (ValueError, AttributeError):
        return ["file's form"]


def _of_another_run(path: Path, changed: Sequence[str]) -> WrongUse:
    return WrongUse(
        f"{path} is of another run: since then the {' and the '.join(changed)} changed. Begin anew"
        " with --restart, or go back to what it was"
    )


def _sync_folder(path: Path) -> None:
    """Makes a file's name last, beside its content."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
