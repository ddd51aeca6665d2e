"""The two clocks that a token's life is judged by; tests pass their own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Now:
    """One reading: `wall` in Unix seconds, `elapsed` in seconds that no clock change moves."""

    wall: float
    elapsed: float


class Clock(Protocol):
    """Reads both clocks at once."""

    def __call__(self) -> Now:
        """Return the present reading."""
        ...


# CLOCK_BOOTTIME also counts while the machine sleeps; elsewhere than on Linux monotonic must do.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_clock() -> Now:
    """Read the machine's clocks."""
    return Now(wall=time.time(), elapsed=time.clock_gettime(_ELAPSED))
