"""The ext_authz service alone, for an Envoy that runs elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ext_authz.errors import StartError
from ext_authz.lifecycle import stop_event, write_ready_file
from ext_authz.server import Service


async def serve(
    service: Service, stop_delay: float, drain_seconds: float, ready_file: Path | None
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. Raises StartError if a part dies."""
    stop = stop_event(service.reload)
    await service.start()
    await service.ready()
    addresses = {"ext_authz": str(service.listen), "status": str(service.status)}
    if ready_file is not None:
        write_ready_file(ready_file, addresses)
    parts = ", ".join(f"{name} {address}" for name, address in addresses.items())
    print(f"idtoken-sidecar is ready: {parts}", flush=True)
    failed = asyncio.create_task(service.failed())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and not stopped.done():
            raise StartError(f"the ext_authz service died: its task {failed.result()} ended")
        await service.drain(stop_delay)
    finally:
        failed.cancel()
        stopped.cancel()
        await service.stop(drain_seconds)
    return 0
