"""`python -m bench`: starts everything on loopback, measures, prints tables, writes results."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import checks, contenders, instructions, report, scenarios, starts
from bench.arithmetic import median
from bench.contenders import Contender
from bench.pictures import draw
from bench.scenarios import Row, Scenario
from bench.stage import MissingToolError, Stage
from bench.targets import compare

_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Size:
    """How much is measured. `requests` and `few` per round."""

    requests: int
    few: int
    rounds: int
    starts: int
    tokens: int
    destinations: int
    term_seconds: int
    calm: int


FULL = Size(
    requests=8_000,
    few=2_000,
    rounds=11,
    starts=9,
    tokens=10_000,
    destinations=2_000,
    term_seconds=20,
    calm=400,
)
QUICK = Size(
    requests=4_000,
    few=1_000,
    rounds=3,
    starts=3,
    tokens=1_000,
    destinations=1_000,
    term_seconds=10,
    calm=100,
)


class Bench:
    """One run; gathers rows."""

    def __init__(self, stage: Stage, size: Size) -> None:
        self._stage = stage
        self._size = size
        self.rows: list[Row] = []
        self.singles: dict[str, Any] = {}

    def starts(self) -> None:
        """Start times first, while nothing else runs."""
        times = self._size.starts
        starts.run_to_ready(self._stage, 1)  # writes .pyc files and warms the disk cache
        run = starts.run_to_ready(self._stage, times)
        serve = starts.serve_to_first_check(self._stage, times)
        print(f"run until ready: median {median(run):.2f} s ({starts.spread(run)})")
        print(f"serve until the first Check: median {median(serve):.2f} s ({starts.spread(serve)})")
        self.singles |= {
            "run_to_ready": median(run),
            "run_to_ready_all": run,
            "serve_to_first_check": median(serve),
            "serve_to_first_check_all": serve,
        }

    def tokens(self) -> None:
        """The service alone: the inside of a Check, and the weight of many tokens."""
        inside = checks.cost_inside_us()
        held = checks.tokens_held(self._stage, self._size.tokens)
        print(f"a Check inside the service, without gRPC: {inside:.1f} µs")
        print(
            f"serve resident: {held.empty_mb:.1f} MB at first, {held.hundred_mb:.1f} with 100 "
            f"tokens, {held.all_mb:.1f} with {held.count} ({held.own_bytes / 1e6:.1f} MB of them)"
        )
        self.singles |= {
            "check_inside_us": inside,
            "held_mb": [held.empty_mb, held.hundred_mb, held.all_mb],
            "held_count": held.count,
            "held_beyond_mb": held.beyond_mb,
        }

    def instructions(self) -> None:
        """What Envoy does per request, counted instead of timed."""
        counted = instructions.count(self._stage)
        if counted is None:
            print("instructions are not counted: valgrind is missing")
            return
        for name, number in counted.items():
            ratio = number / counted["bare"]
            print(f"instructions of Envoy per request, {name}: {number:.0f} ({ratio:.2f} x bare)")
        self.singles["instructions"] = counted

    def loads(self) -> None:
        """Every contender under every load, in turning rounds."""
        stage, size = self._stage, self._size
        with contextlib.ExitStack() as stack:
            hot = stack.enter_context(contenders.sidecar(stage, "hot", cache=True))
            off = stack.enter_context(contenders.sidecar(stage, "cache off", cache=False))
            bare = stack.enter_context(contenders.bare(stage))
            gcp = stack.enter_context(contenders.gcp_authn(stage, "gcp_authn", static=True))
            dynamic = contenders.gcp_authn(stage, "gcp_authn dynamic", static=False)
            more = [gcp, stack.enter_context(dynamic)]
            go_1 = stack.enter_context(contenders.go_proxy(stage, "Go, HTTP/1.1", http2=False))
            go_2 = stack.enter_context(contenders.go_proxy(stage, "Go, HTTP/2", http2=True))
            every = [hot, off, bare, *more, go_1, go_2]
            scenarios.warm_up(stage, every)
            self.singles["fetches_per_audience"] = hot.counters()[1]
            for protocol in ("http1", "http2", "grpc"):
                chosen = every if protocol != "grpc" else [hot, off, bare, *more, go_2]
                self._run(
                    scenarios.one_destination(stage, protocol, size.requests, size.rounds), chosen
                )
            direct = Contender("direct", stage.upstream.address, stage.upstream.pid)
            self._run(scenarios.unhurried(stage, size.calm, size.rounds), [direct, *every])
            self._run(scenarios.new_connections(stage, size.few, size.rounds), every)
            three = [hot, off, bare]
            self._run(scenarios.many_destinations(stage, 100, size.few * 2, size.rounds), three)
            self._fetches(hot, 100)
            self._terms(hot)
            numbers = scenarios.fresh_numbers()
            self._run(scenarios.cold(stage, size.few // 10, size.rounds, numbers), three)

    def two_workers(self) -> None:
        """Two workers on this machine's cores, which the load generator also needs."""
        stage, size = self._stage, self._size
        with (
            contenders.sidecar(stage, "hot 2", cache=True, workers=2) as hot,
            contenders.bare(stage, "bare 2", workers=2) as bare,
        ):
            scenarios.warm_up(stage, [hot, bare])
            self._run(scenarios.two_workers(stage, size.requests, size.rounds), [hot, bare])

    def many(self) -> None:
        """Many destinations; beyond some thousands Envoy itself gets slow (docs/performance.md)."""
        stage, many = self._stage, self._size.destinations
        with (
            contenders.sidecar(stage, "hot", cache=True) as hot,
            contenders.bare(stage) as bare,
        ):
            both = [hot, bare]
            first = scenarios.many_destinations(stage, many, many, 1)
            self._run(replace(first, name=f"{many} destinations, first time"), both)
            self._run(scenarios.many_destinations(stage, many, many * 2, 3), both)
            self._fetches(hot, many)

    def _run(self, scenario: Scenario, chosen: list[Contender]) -> None:
        rows = scenarios.run(scenario, chosen)
        self.rows += rows
        print(f"\n### {scenario.name}\n\n{report.table(rows)}", flush=True)

    def _fetches(self, contender: Contender, audiences: int) -> None:
        """Note how often each audience was fetched so far."""
        found = contender.counters()[1] / audiences
        self.singles["fetches_per_audience"] = max(found, self.singles["fetches_per_audience"])

    def _terms(self, contender: Contender) -> None:
        """Note the Checks of one busy destination, and of 32 first requests at once."""
        found = scenarios.terms(self._stage, contender, self._size.term_seconds)
        burst = scenarios.first_burst(self._stage, contender)
        print(f"\nChecks in {self._size.term_seconds} s of one destination: {found.checks:.0f}")
        print(f"Checks for 32 first requests at once: {burst:.0f}")
        self.singles |= {"checks_per_term": found.checks / found.terms, "burst_checks": burst}


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than two minutes, more noise")
    parser.add_argument("--results", type=Path, default=_ROOT / "bench" / "results")
    parser.add_argument("--draw", action="store_true", help="also write docs/img/*.svg")
    parser.add_argument("--destinations", type=int, metavar="N", help="how many are many")
    options = parser.parse_args()
    facts = report.machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="idtoken-bench-") as directory:
        try:
            stage = Stage(Path(directory))
        except MissingToolError as error:
            print(error, file=sys.stderr)
            return 1
        with stage:
            size = QUICK if options.quick else FULL
            many = options.destinations or size.destinations
            bench = Bench(stage, replace(size, destinations=many))
            bench.starts()
            bench.tokens()
            bench.instructions()
            bench.loads()
            bench.two_workers()
            bench.many()
    _finish(bench, facts, options)
    return 0


def _finish(bench: Bench, facts: dict[str, Any], options: argparse.Namespace) -> None:
    targets = compare(bench.rows, bench.singles)
    print(f"\n### Aims\n\n{report.target_table(targets)}\n")
    path = options.results / f"{facts['time'].replace(':', '')}.json"
    report.write(path, facts, bench.rows, bench.singles, targets)
    pictures = draw(bench.rows, _ROOT / "docs" / "img" if options.draw else options.results)
    print("wrote", *(_shown(each) for each in (path, *pictures)))


def _shown(path: Path) -> str:
    return str(path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path)


if __name__ == "__main__":
    raise SystemExit(main())
