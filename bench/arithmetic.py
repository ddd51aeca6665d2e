"""The benchmark's own arithmetic: medians, percentiles, ratios within a round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence


def median(values: Iterable[float]) -> float:
    """Return the median; not a number if there is no value."""
    found = [value for value in values if value == value]  # noqa: PLR0124 - drops NaN
    return statistics.median(found) if found else float("nan")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of `values` lie; not a number if empty."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def ratio_within_rounds(mine: Mapping[int, float], base: Mapping[int, float]) -> float:
    """Return the median of mine / base over the rounds that both have.

    The machine changes from minute to minute: what was measured side by side is compared.
    """
    return median(mine[number] / base[number] for number in mine if base.get(number))


def per_request_us(cpu_seconds: float, requests: int) -> float:
    """Return microseconds of CPU per request; not a number without requests."""
    return cpu_seconds / requests * 1e6 if requests else float("nan")


def beyond_own_size_mb(before_mb: float, after_mb: float, own_bytes: int) -> float:
    """Return by how much memory grew more than the size of what is kept, in MB of 10^6 bytes."""
    return after_mb - before_mb - own_bytes / 1e6


def counter_sum(exposition: str, name: str) -> float:
    """Return the sum of a counter over all its labels, from Prometheus' text format."""
    total = 0.0
    for line in exposition.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")):
            total += float(line.rpartition(" ")[2])
    return total
