"""Prints the tables and writes the results file."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.scenarios import Row
from bench.targets import Target

_HEAD = ("", "CPU µs", "Envoy/proxy", "Python", "x bare", "req/s", "p50 ms", "p99 ms", "Checks/req")


def table(rows: Sequence[Row]) -> str:
    """Return the rows of one scenario as a Markdown table."""
    lines = [_line(_HEAD), _line(["---"] + ["---:"] * (len(_HEAD) - 1))]
    for row in rows:
        cells = [row.contender, f"{row.cpu_us:.0f}", f"{row.proxy_us:.0f}"]
        cells += [f"{row.service_us:.0f}" if row.service_mb else "-", f"{row.ratio:.2f}"]
        cells += [f"{row.rate:.0f}", f"{row.p50 / 1e3:.2f}", f"{row.p99 / 1e3:.2f}"]
        cells.append(f"{row.checks:.4f}" if row.service_mb else "-")
        lines.append(_line(cells))
    failed = sum(row.errors for row in rows)
    return "\n".join(lines) + (f"\n\n{failed} requests failed" if failed else "")


def target_table(targets: Sequence[Target]) -> str:
    """Return the aims as a Markdown table."""
    lines = [_line(["aim", "found", "at most", ""]), _line(["---", "---:", "---:", "---"])]
    for each in targets:
        verdict = "met" if each.is_met else "**missed**"
        lines.append(
            _line(
                [each.name, f"{each.found:.2f} {each.unit}", f"{each.limit:g} {each.unit}", verdict]
            )
        )
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def write(
    path: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    singles: Mapping[str, Any],
    targets: Sequence[Target],
) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": facts,
        "rows": [row.as_json() for row in rows],
        "singles": singles,
        "targets": [target.as_json() for target in targets],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
