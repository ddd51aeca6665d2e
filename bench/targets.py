"""The aims, each with what was found; they are compared and printed, never tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.scenarios import Row


@dataclass(frozen=True)
class Target:
    """One aim: at most `limit` of `unit`."""

    name: str
    found: float
    limit: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Say whether it was reached; what was not measured was not."""
        return self.found <= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return what goes into the results file."""
        return {**asdict(self), "is_met": self.is_met}


class Rows:
    """Finds rows by scenario and contender."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: Mapping[tuple[str, str], Row] = {(r.scenario, r.contender): r for r in rows}

    def value(self, scenario: str, contender: str, name: str) -> float:
        """Return a column of a row; not a number if it was not measured."""
        row = self._rows.get((scenario, contender))
        return float(getattr(row, name)) if row else float("nan")


def compare(rows: Sequence[Row], singles: Mapping[str, float]) -> list[Target]:
    """Return every aim of the project beside what this run found."""
    table = Rows(rows)
    main = "one destination, http1"
    hot = table.value(main, "hot", "ratio")
    gcp = min(table.value(main, name, "ratio") for name in ("gcp_authn", "gcp_authn dynamic"))
    memory = sum(
        table.value("100 destinations, http1", "hot", n) for n in ("proxy_mb", "service_mb")
    )
    return [
        Target("hot: CPU per request of bare", hot, 1.25, "x"),
        Target("hot: CPU per request of gcp_authn with its cache", hot / gcp, 1.0, "x"),
        Target("cache off: CPU of bare", table.value(main, "cache off", "ratio"), 5.5, "x"),
        Target("a Check in Python", table.value(main, "cache off", "service_us"), 200, "µs"),
        Target("run until ready", singles["run_to_ready"], 1.2, "s"),
        Target("serve until the first Check", singles["serve_to_first_check"], 0.8, "s"),
        Target("resident with 100 destinations", memory, 150, "MB"),
        Target(
            "10,000 tokens (quick: 1,000) beyond their own size",
            singles["held_beyond_mb"],
            20,
            "MB",
        ),
        Target("fetches per audience", singles["fetches_per_audience"], 1, ""),
        Target("Checks per destination, worker and 9 s", singles["checks_per_term"], 1.05, ""),
        Target("Checks for 32 first requests at once", singles["burst_checks"], 1, ""),
    ]
