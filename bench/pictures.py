"""The pictures of docs/performance.md, from the rows of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.plot import Bar, bars
from bench.scenarios import Row

MAIN = "one destination, http1"
CALM = "unhurried, http1"


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write the SVG files; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {
        "bench-cpu.svg": bars(
            "CPU per request, one destination, HTTP/1.1 keep-alive (µs)",
            ("proxy", "Python service"),
            [_cpu(row) for row in _of(rows, MAIN)],
        ),
        "bench-latency.svg": bars(
            "Latency of an unhurried request; direct is HTTPS without a proxy (ms)",
            ("median", "from there to the 99th percentile"),
            [_latency(row) for row in _of(rows, CALM)],
        ),
        "bench-ratio.svg": bars(
            "CPU of the sidecar, hot, for each unit of bare Envoy",
            (),
            [_ratio(row) for row in rows if row.contender in ("hot", "hot 2") and row.ratio > 0],
        ),
    }
    for name, content in pictures.items():
        (directory / name).write_text(content, encoding="utf-8")
    return [directory / name for name in pictures]


def _of(rows: Sequence[Row], scenario: str) -> list[Row]:
    return [row for row in rows if row.scenario == scenario]


def _cpu(row: Row) -> Bar:
    return Bar(
        row.contender, (row.proxy_us, row.service_us), f"{row.cpu_us:.0f} ({row.ratio:.2f}x)"
    )


def _ratio(row: Row) -> Bar:
    return Bar(row.scenario, (row.ratio,), f"{row.ratio:.2f}")


def _latency(row: Row) -> Bar:
    p50, p99 = row.p50 / 1e3, row.p99 / 1e3
    return Bar(row.contender, (p50, max(p99 - p50, 0.0)), f"{p50:.2f} / {p99:.2f}")
