"""The one way in which tests wait for something that has no event: look again, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    look: Callable[[], T], timeout_seconds: float, what: str, *, pause_seconds: float = 0.05
) -> T:
    """Call `look` until what it gives is true, and give that. Raises TimeoutError."""
    end = time.monotonic() + timeout_seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout_seconds:.0f} s it was not so that {what}")
        time.sleep(pause_seconds)
    return found


def elapsed(started: float) -> float:
    """Seconds since `started`, a value of time.monotonic()."""
    return time.monotonic() - started
