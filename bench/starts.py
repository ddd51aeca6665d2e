"""Start times: `run` until all serves, `serve` until its first answered Check."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from bench import processes
from bench.checks import check_method, request_for
from bench.contenders import sidecar_command, write_config
from bench.stage import Stage


def run_to_ready(stage: Stage, times: int) -> list[float]:
    """Return seconds from starting `run` to its ready file, for each start."""
    config = write_config(stage, stage.directory / "start.yaml", cache=True)
    return [_run_once(stage, config) for _ in range(times)]


def _run_once(stage: Stage, config: Path) -> float:
    ready, log = stage.directory / "start.ready", stage.directory / "start.log"
    ready.unlink(missing_ok=True)
    environ = processes.clean_environment(stage.directory, stage.google.environment())
    begin = time.perf_counter()
    command = sidecar_command(config, ready, "--listen=127.0.0.1:0", "--log-level=warning")
    process = processes.start(command, log, environ)
    try:
        processes.until(ready.is_file, process, log)
        return time.perf_counter() - begin
    finally:
        processes.stop(process)


def serve_to_first_check(stage: Stage, times: int) -> list[float]:
    """Return seconds from starting `serve` to its first answer with a token, for each start."""
    config = write_config(stage, stage.directory / "serve.yaml", cache=True)
    request = request_for(stage.hosts % 0)
    return [_serve_once(stage, config, request) for _ in range(times)]


def _serve_once(stage: Stage, config: Path, request: bytes) -> float:
    ready, log = stage.directory / "serve.ready", stage.directory / "serve.log"
    address = f"127.0.0.1:{_free_port()}"
    environ = processes.clean_environment(stage.directory, stage.google.environment())
    command = sidecar_command(
        config, ready, f"--listen={address}", "--log-level=warning", command="serve"
    )
    begin = time.perf_counter()
    process = processes.start(command, log, environ)
    try:
        processes.until(lambda: _listens(address), process, log)
        with grpc.insecure_channel(address) as channel:
            check_method(channel)(request, timeout=10)
        return time.perf_counter() - begin
    finally:
        processes.stop(process)


def serve_address(ready_file: Path) -> tuple[str, str]:
    """Return where a `serve` listens, and its status address."""
    found = json.loads(ready_file.read_text())
    return found["ext_authz"], found["status"]


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 0.1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def spread(values: Sequence[float]) -> str:
    """Return the fastest and the slowest, as text."""
    return f"{min(values):.2f}-{max(values):.2f} s" if values else "-"
