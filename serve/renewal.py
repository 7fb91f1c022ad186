"""A certificate that is renewed while the server runs: its files are looked at now and then."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serve import tls
from serve.errors import ConfigError

log = logging.getLogger(__name__)

EVERY_S = 10.0

Seen = tuple[tuple[int, ...] | None, ...]  # what changes when a file is written or another is put


@asynccontextmanager
async def watching(
    context: ssl.SSLContext | None, files: tuple[Path, Path] | None
) -> AsyncIterator[None]:
    """Watches certificate and key for as long as the block runs; without TLS it does nothing."""
    if context is None or files is None:
        yield
        return
    watcher = asyncio.create_task(watch(context, *files))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})


async def watch(
    context: ssl.SSLContext, certificate: Path, key: Path, every_s: float = EVERY_S
) -> None:
    """Has `context` answer by what is in the files, whenever that changes. Never ends.

    Files that cannot be used (half of them is written, say) leave what there was, and are told of
    once for each change.
    """
    seen: Seen | None = None  # so what has changed since they were read first is not missed
    while True:
        found = await asyncio.to_thread(_look, certificate, key)
        if found != seen:
            try:
                await asyncio.to_thread(tls.reload, context, certificate, key)
            except ConfigError as error:
                log.error("the certificate is not renewed, the old one goes on: %s", error)
            else:
                if seen is not None:
                    log.info("new connections get the certificate in %s", certificate)
            seen = found
        await asyncio.sleep(every_s)


def _look(*files: Path) -> Seen:
    return tuple(map(_state, files))


def _state(file: Path) -> tuple[int, ...] | None:
    """Of the file that is meant: a renewal may only turn a link around."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
