"""What every long-running command shares: signals that stop or reload it, and the ready file."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from ext_authz.errors import StartError


def write_ready_file(path: Path, addresses: Mapping[str, str | None]) -> None:
    """Write the addresses as JSON, whole or not at all. Raises StartError."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(addresses) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StartError(f"--ready-file: {path} cannot be written: {error.strerror}") from None


def stop_event(reload: Callable[[], None]) -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; SIGHUP reloads the configuration."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
