"""Very many short connections at a bounded rate, and what they leave behind in a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tests.support.sidecar import Address
from tests.support.tunnels import connect_bytes

AT_ONCE = 40
STEP_SECONDS = 30.0
ATTEMPTS = 3
LINE = b"\0 neither TLS nor HTTP, as Envoy sees from so much of it\n"


class Footprint(NamedTuple):
    """What a process holds: resident memory in MB and open descriptors."""

    megabytes: float
    descriptors: int


def footprint(pid: int) -> Footprint:
    """Measure a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return Footprint(int(resident.split()[1]) / 1024, len(os.listdir(f"/proc/{pid}/fd")))


def crowd(works: Iterable[Callable[[], Awaitable[None]]], at_once: int = AT_ONCE) -> None:
    """Do all of it, so many at a time; raises what the first one raises."""

    async def run() -> None:
        waiting = iter(works)

        async def one_after_another() -> None:
            for work in waiting:
                async with asyncio.timeout(STEP_SECONDS):
                    await work()

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_another())

    asyncio.run(run())


async def short_tunnel(proxy: Address, authority: str) -> None:
    """CONNECT, a line to and fro, the end."""
    reader, writer = await _connected(proxy, authority)
    writer.write(LINE)
    await writer.drain()
    assert await reader.readexactly(len(LINE)) == LINE
    await _closed(writer)


async def handshake(proxy: Address, authority: str, name: str, trust: ssl.SSLContext) -> None:
    """CONNECT, a TLS handshake for a name, the end; on a busy machine at the second attempt."""
    for attempt in range(ATTEMPTS):
        _, writer = await _connected(proxy, authority)
        try:
            await writer.start_tls(trust, server_hostname=name)
        except ConnectionResetError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return
        finally:
            await _closed(writer)


async def _connected(
    proxy: Address, authority: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*proxy)
    writer.write(connect_bytes(authority))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader, writer


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
