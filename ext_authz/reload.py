"""Notices that the configuration or a file that it names has changed, by looking once a second.

Looking works where file notifications do not: bind mounts, gVisor, Kubernetes' symlink swaps.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

PERIOD_SECONDS = 1.0

Signature = tuple[tuple[int, int, int, int] | None, ...]


def signature(paths: Iterable[Path]) -> Signature:
    """Return what changes when any of the files is rewritten, replaced or removed."""
    return tuple(_identity(path) for path in paths)


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Watcher:
    """Calls `changed` after a change; `paths` says anew each time which files count."""

    def __init__(self, paths: Callable[[], Iterable[Path]], changed: Callable[[], None]) -> None:
        self._paths = paths
        self._changed = changed
        self._seen = signature(paths())

    def look(self) -> None:
        """Compare once; call `changed` if there is a difference."""
        now = signature(self._paths())
        if now != self._seen:
            before = tuple(self._paths())
            self._changed()
            after = tuple(self._paths())
            # A file written while `changed` ran must be noticed the next time.
            self._seen = now if after == before else signature(after)

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look every second, for ever."""
        while True:
            await sleep(PERIOD_SECONDS)
            self.look()
