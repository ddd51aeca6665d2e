"""Runs the two load generators, h2load and bench/goload, and reads what they found."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.arithmetic import percentile

CLIENTS = 32
_TIMEOUT_SECONDS = 120
_SECONDS = re.compile(r"finished in ([0-9.]+)(us|ms|s|m)")
_GOOD = re.compile(r"status codes: (\d+) 2xx")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_EMPTY_GRPC_MESSAGE = b"\0\0\0\0\0"


@dataclass(frozen=True)
class Outcome:
    """What one run of a load generator found; latencies in µs."""

    requests: int
    errors: int
    seconds: float
    p50: float
    p99: float


def h2load(
    url: str,
    address: str,
    protocol: str,
    requests: int,
    *,
    clients: int = CLIENTS,
    rps: int | None = None,
) -> Outcome:
    """Ask for one URL through `address`. `protocol` is http1, http2 or grpc; `rps` per client."""
    with tempfile.TemporaryDirectory(prefix="idtoken-bench-") as directory:
        log = Path(directory) / "log"
        command = ["h2load", f"--connect-to={address}", f"--log-file={log}", "-t1"]
        command += ["-n", str(requests), "-c", str(clients), *_flags(protocol, Path(directory))]
        if rps:
            command.append(f"--rps={rps}")
        done = subprocess.run(
            [*command, url], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
        return read_h2load(done.stdout, log.read_text().splitlines(), requests)


def _flags(protocol: str, directory: Path) -> list[str]:
    if protocol == "http1":
        return ["--h1"]
    if protocol == "http2":
        return []
    body = directory / "message"
    body.write_bytes(_EMPTY_GRPC_MESSAGE)
    return ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]


def read_h2load(report: str, log: Sequence[str], requests: int) -> Outcome:
    """Read h2load's report and its log file (start, status, microseconds)."""
    found, good = _SECONDS.search(report), _GOOD.search(report)
    if not found or not good:
        raise ValueError(f"h2load said something else than expected: {report[-500:]}")
    latencies = [float(line.split("\t")[2]) for line in log]
    seconds = float(found[1]) * _UNITS[found[2]]
    errors = requests - int(good[1])
    return Outcome(
        requests, errors, seconds, percentile(latencies, 0.5), percentile(latencies, 0.99)
    )


@dataclass(frozen=True)
class Asked:
    """What goload asks for: `count` destinations in turn from number `first` on, over HTTP/1.1.

    `hosts` has one %d verb. With `close` every request has a connection of its own.
    """

    hosts: str
    requests: int
    first: int = 0
    count: int = 1
    clients: int = CLIENTS
    close: bool = False


def goload(program: Path, address: str, asked: Asked) -> Outcome:
    """Ask the proxy at `address`."""
    command = [str(program), f"-address={address}", "-timeout=90s"]
    command += [f"-hosts={asked.hosts}", f"-requests={asked.requests}", f"-first={asked.first}"]
    command += [f"-count={asked.count}", f"-clients={asked.clients}"]
    command += ["-close"] if asked.close else []
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
    )
    found = json.loads(done.stdout)
    return Outcome(
        found["requests"], found["errors"], found["seconds"], found["p50_us"], found["p99_us"]
    )
