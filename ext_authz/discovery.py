"""Finds out once which project this is, for the short names of its services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ext_authz import log
from ext_authz.clock import Clock
from ext_authz.errors import SourceError
from ext_authz.short_names import Project

RETRY_SECONDS = 30.0

Lookup = Callable[[], tuple[str, str]]


class ProjectFinder:
    """Asks `lookup` (blocking; number and region; raises SourceError) at most once per half minute.

    Where there is no metadata server that knows a region, short names are hosts like any other.
    """

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock
        self._found: Project | None = None
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self) -> Project | None:
        """Return the project, or None if it is not to be found out now."""
        async with self._lock:
            now = self._clock().elapsed
            if self._found is None and now - self._asked_at >= RETRY_SECONDS:
                self._asked_at = now
                self._found = await asyncio.to_thread(self._ask)
            return self._found

    def _ask(self) -> Project | None:
        try:
            number, region = self._lookup()
        except SourceError as error:
            log.info("short names are off: the project is not known", code=error.code)
            return None
        log.info("short names stand for services of this project", found=f"{number} {region}")
        return Project(number, region)
