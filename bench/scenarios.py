"""What is measured: rounds in which every contender gets the same load in turn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import load
from bench.arithmetic import median, per_request_us, ratio_within_rounds
from bench.contenders import Contender
from bench.load import CLIENTS, Asked, Outcome
from bench.stage import Stage

WARM_UP = 200
BASE = "bare"


@dataclass(frozen=True)
class Row:
    """One contender under one load: medians over the rounds. Times in µs, memory in MB."""

    scenario: str
    contender: str
    proxy_us: float
    service_us: float
    ratio: float
    rate: float
    p50: float
    p99: float
    checks: float
    fetches: float
    proxy_mb: float
    service_mb: float
    requests: int
    errors: int

    @property
    def cpu_us(self) -> float:
        """CPU of all processes of the contender, per request."""
        return self.proxy_us + self.service_us

    def as_json(self) -> dict[str, Any]:
        """Return what goes into the results file."""
        return {**asdict(self), "cpu_us": self.cpu_us}


Load = Callable[[Contender], Outcome]


@dataclass(frozen=True)
class Scenario:
    """A load, and how often it is repeated."""

    name: str
    make: Load
    rounds: int


def run(scenario: Scenario, contenders: Sequence[Contender]) -> list[Row]:
    """Run the rounds and return a row per contender, `bare` as the base.

    The order is shuffled anew (and alike in each run): who came before leaves the machine busy or
    rested, and must not be the same in every round.
    """
    found: dict[str, dict[int, Row]] = {each.name: {} for each in contenders}
    for number in range(scenario.rounds):
        for contender in random.Random(number).sample(contenders, len(contenders)):
            found[contender.name][number] = _measure(scenario, contender)
    base = next((rounds for name, rounds in found.items() if name.startswith(BASE)), {})
    return [_row(rounds, base) for rounds in found.values()]


def _measure(scenario: Scenario, contender: Contender) -> Row:
    checks, fetches = contender.counters()
    proxy, service = contender.cpu()
    outcome = scenario.make(contender)
    proxy_after, service_after = contender.cpu()
    checks_after, fetches_after = contender.counters()
    memory = contender.memory()
    requests = outcome.requests
    return Row(
        scenario.name,
        contender.name,
        per_request_us(proxy_after - proxy, requests),
        per_request_us(service_after - service, requests),
        float("nan"),
        requests / outcome.seconds,
        outcome.p50,
        outcome.p99,
        (checks_after - checks) / max(requests, 1),
        fetches_after - fetches,
        *memory,
        requests,
        outcome.errors,
    )


def _row(rounds: dict[int, Row], base: dict[int, Row]) -> Row:
    every = list(rounds.values())
    names = ("proxy_us", "service_us", "rate", "p50", "p99", "checks", "proxy_mb", "service_mb")
    medians: Any = {name: median(getattr(row, name) for row in every) for name in names}
    ratio = ratio_within_rounds(
        {number: row.cpu_us for number, row in rounds.items()},
        {number: row.cpu_us for number, row in base.items()},
    )
    return replace(
        every[-1],
        **medians,
        ratio=ratio,
        fetches=sum(row.fetches for row in every),
        errors=sum(row.errors for row in every),
    )


def one_destination(stage: Stage, protocol: str, requests: int, rounds: int) -> Scenario:
    """Keep-alive, 32 connections, as fast as they go."""
    url = f"http://{stage.hosts % 0}/"

    def make(contender: Contender) -> Outcome:
        # A Check per request is several times as slow, and needs fewer for the same certainty.
        number = requests // 4 if contender.name == "cache off" else requests
        return load.h2load(url, contender.address, protocol, number)

    return Scenario(f"one destination, {protocol}", make, rounds)


def two_workers(stage: Stage, requests: int, rounds: int) -> Scenario:
    """The same for proxies with two workers."""
    scenario = one_destination(stage, "http1", requests, rounds)
    return replace(scenario, name="two workers, http1")


def unhurried(stage: Stage, requests: int, rounds: int) -> Scenario:
    """Four connections at 50 requests a second each: latency without queues."""
    url = f"http://{stage.hosts % 0}/"

    def make(contender: Contender) -> Outcome:
        # Nothing in between: the load generator itself speaks TLS with the upstream.
        target = url.replace("http:", "https:") if contender.name == "direct" else url
        return load.h2load(target, contender.address, "http1", requests, clients=4, rps=50)

    return Scenario("unhurried, http1", make, rounds)


def new_connections(stage: Stage, requests: int, rounds: int) -> Scenario:
    """A connection of the app for each request; the proxy keeps those to the upstream."""

    def make(contender: Contender) -> Outcome:
        ask = Asked(stage.hosts, requests, clients=16, close=True)
        return load.goload(stage.goload, contender.address, ask)

    return Scenario("new connections, http1", make, rounds)


def many_destinations(stage: Stage, count: int, requests: int, rounds: int) -> Scenario:
    """`count` destinations in turn, each with connections of its own to the upstream."""

    def make(contender: Contender) -> Outcome:
        own = contender.name == BASE and count > 100
        ask = Asked(stage.spare_hosts if own else stage.hosts, requests, count=count)
        return load.goload(stage.goload, contender.address, ask)

    return Scenario(f"{count} destinations, http1", make, rounds)


def cold(stage: Stage, requests: int, rounds: int, numbers: Iterator[int]) -> Scenario:
    """Each request to a destination that nobody asked for before: DNS, TLS, token."""

    def make(contender: Contender) -> Outcome:
        first = next(numbers) * requests
        ask = Asked(stage.hosts, requests, first=first, count=requests, clients=8)
        return load.goload(stage.goload, contender.address, ask)

    return Scenario("cold destinations, http1", make, rounds)


@dataclass(frozen=True)
class Terms:
    """How many Checks one destination cost, and in how many times to live."""

    checks: float
    terms: int


def terms(stage: Stage, contender: Contender, seconds: int) -> Terms:
    """Ask for one destination for so long; an answer is renewed a second before its 10 s end."""
    before, _ = contender.counters()
    url = f"http://{stage.hosts % 0}/"
    load.h2load(url, contender.address, "http1", seconds * CLIENTS * 10, rps=10)
    after, _ = contender.counters()
    return Terms(after - before, seconds // 9 + 1)


def first_burst(stage: Stage, contender: Contender) -> float:
    """Return the Checks that 32 requests at once to a new destination cost."""
    before, _ = contender.counters()
    load.goload(stage.goload, contender.address, Asked(stage.hosts, CLIENTS, first=99_999))
    return contender.counters()[0] - before


def fresh_numbers() -> Iterator[int]:
    """Return block numbers far from those of the other loads."""
    return itertools.count(100)


def warm_up(stage: Stage, contenders: Sequence[Contender]) -> None:
    """Let every contender connect, resolve and fetch once."""
    for contender in contenders:
        for protocol in ("http1", "http2"):
            load.h2load(f"http://{stage.hosts % 0}/", contender.address, protocol, WARM_UP)
