"""The proxies that are compared; each a context manager that knows its address and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import envoy_configs, processes
from bench.arithmetic import counter_sum
from bench.envoy import Envoy, get
from bench.stage import DOMAIN, Stage

CONFIG = """\
destinations:
  - match: "*.{domain}:{port}"
tokens: {{credential_cache: {cache}}}
upstream: {{ca_file: {ca_file}, allow_loopback: true}}
"""


@dataclass(frozen=True)
class Contender:
    """One running proxy."""

    name: str
    address: str
    proxy: int
    service: int | None = None
    status: str = ""

    def cpu(self) -> tuple[float, float]:
        """Return CPU seconds so far of the proxy and of the service beside it."""
        service = processes.cpu_seconds(self.service) if self.service else 0.0
        return processes.cpu_seconds(self.proxy), service

    def memory(self) -> tuple[float, float]:
        """Return resident MB of the proxy and of the service beside it."""
        service = processes.resident_mb(self.service) if self.service else 0.0
        return processes.resident_mb(self.proxy), service

    def counters(self) -> tuple[float, float]:
        """Return Checks answered and tokens fetched so far."""
        if not self.status:
            return 0.0, 0.0
        text = get(f"http://{self.status}/metrics")
        names = ("idtoken_sidecar_checks_total", "idtoken_sidecar_token_fetches_total")
        return counter_sum(text, names[0]), counter_sum(text, names[1])


def sidecar_command(config: Path, ready_file: Path, *more: str, command: str = "run") -> list[str]:
    """Return how the benchmark starts the sidecar: this interpreter, free ports."""
    ports = ["--status-port=0"]
    if command == "run":
        ports += ["--forward-port=0", "--reverse-port=0", "--admin-port=0"]
    files = [f"--config={config}", f"--ready-file={ready_file}"]
    return [sys.executable, "-m", "ext_authz", command, *files, *ports, *more]


def write_config(stage: Stage, path: Path, *, cache: bool) -> Path:
    """Write the sidecar's configuration file."""
    path.write_text(
        CONFIG.format(
            domain=DOMAIN, port=stage.port, ca_file=stage.ca_file, cache=str(cache).lower()
        )
    )
    return path


@contextmanager
def sidecar(
    stage: Stage, name: str, *, cache: bool, workers: int = 1, program: Path | None = None
) -> Iterator[Contender]:
    """Run the sidecar: Envoy and the service."""
    slug = _slug(name)
    config = write_config(stage, stage.directory / f"{slug}.yaml", cache=cache)
    ready, log = stage.directory / f"{slug}.ready", stage.directory / f"{slug}.log"
    ready.unlink(missing_ok=True)
    more = ["--listen=127.0.0.1:0", f"--concurrency={workers}", "--log-level=warning"]
    more += [f"--envoy={program}"] if program else []
    environ = processes.clean_environment(stage.directory, stage.google.environment())
    process = processes.start(sidecar_command(config, ready, *more), log, environ)
    try:
        processes.until(ready.is_file, process, log)
        at: Mapping[str, str] = json.loads(ready.read_text())
        envoy = processes.child_of(process.pid)
        yield Contender(name, at["forward"], envoy, process.pid, at["status"])
    finally:
        processes.stop(process)


@contextmanager
def bare(
    stage: Stage, name: str = "bare", workers: int = 1, program: Path | None = None
) -> Iterator[Contender]:
    """Run the same Envoy without any authorization."""
    config = envoy_configs.bare(stage.ca_file, stage.token)
    with Envoy(stage.directory, _slug(name), config, workers, program) as envoy:
        yield Contender(name, envoy.address, envoy.pid)


@contextmanager
def gcp_authn(
    stage: Stage, name: str, *, static: bool, program: Path | None = None
) -> Iterator[Contender]:
    """Run Envoy's own filter with its cache on."""
    config = envoy_configs.gcp_authn(
        envoy_configs.bare(stage.ca_file, stage.token),
        stage.google.metadata_host,
        f"127.0.0.1:{stage.port}" if static else None,
        f"https://d00000.{DOMAIN}",
    )
    with Envoy(stage.directory, _slug(name), config, program=program) as envoy:
        yield Contender(name, envoy.address, envoy.pid)


@contextmanager
def go_proxy(stage: Stage, name: str, *, http2: bool) -> Iterator[Contender]:
    """Run a Go httputil.ReverseProxy that adds a fixed header, on one core."""
    log = stage.directory / f"{_slug(name)}.log"
    command = [str(stage.goproxy), f"-upstream={_host(stage)}", f"-ca={stage.ca_file}"]
    command += [f"-token=Bearer {stage.token}", *(["-http2"] if http2 else [])]
    environ = {**os.environ, "GOMAXPROCS": "1"}
    process = processes.start(command, log, environ, pipe=True)
    try:
        yield Contender(name, _first_line(process), process.pid)
    finally:
        processes.stop(process)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _host(stage: Stage) -> str:
    return stage.hosts % 0


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()
