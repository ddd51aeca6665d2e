"""The real Athens as a child process, where one is installed; it serves modules from disk only.

Nothing here installs it: a test without it uses `go_modules.ModuleServer` instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.go_modules import Module

BINARY_VARIABLE = "IDTOKEN_SIDECAR_TEST_ATHENS"
START_SECONDS = 10.0
STOP_SECONDS = 5.0


def find_athens() -> Path | None:
    """The program that the environment variable names, else `athens` on PATH, else None."""
    found = os.environ.get(BINARY_VARIABLE) or shutil.which("athens")
    return Path(found) if found and os.access(found, os.X_OK) else None


def publish(storage: Path, module: Module) -> None:
    """Lay one module version out as Athens's disk storage keeps it."""
    directory = storage / module.path / module.version
    directory.mkdir(parents=True)
    (directory / "go.mod").write_bytes(module.go_mod)
    (directory / "source.zip").write_bytes(module.zip())
    (directory / f"{module.version}.info").write_bytes(module.info)


class Athens:
    """Athens on a free loopback port, offline, serving what `publish` laid out."""

    def __init__(self, binary: Path, storage: Path) -> None:
        self._binary = binary
        self._storage = storage
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it is healthy. Raises RuntimeError if it ends or is too slow."""
        self.port = _free_port()
        self._process = subprocess.Popen(
            [self._binary],
            env=os.environ | self._settings(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_SECONDS
        while not _healthy(f"{self.url}/healthz"):
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{self._binary} did not become healthy on {self.url}")
            time.sleep(0.05)
        return self

    def _settings(self) -> dict[str, str]:
        return {
            "ATHENS_PORT": f"127.0.0.1:{self.port}",
            "ATHENS_STORAGE_TYPE": "disk",
            "ATHENS_DISK_STORAGE_ROOT": str(self._storage),
            "ATHENS_NETWORK_MODE": "offline",  # lists come from the storage alone
            "ATHENS_DOWNLOAD_MODE": "none",  # a module that is not stored is 404, never fetched
            "ATHENS_TRACE_EXPORTER": "",
            "ATHENS_STATS_EXPORTER": "",
            "ATHENS_SHUTDOWN_TIMEOUT": "1",
        }

    def stop(self) -> None:
        """End the process. Stopping twice is allowed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=1) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
