"""One Envoy process with a configuration of its own; a context manager."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import processes
from ext_authz.envoy_process import find_envoy


class Envoy:
    """`address` is where its first listener listens, once it runs."""

    def __init__(
        self,
        directory: Path,
        name: str,
        config: dict[str, Any],
        concurrency: int = 1,
        program: Path | None = None,
    ) -> None:
        self._program = program or find_envoy(None)
        self._directory = directory
        self._name = name
        self._concurrency = concurrency
        self._file = directory / f"{name}.json"
        self._file.write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        admin_file = self._directory / f"{self._name}.admin"
        log = self._directory / f"{self._name}.log"
        command = [str(self._program), "--config-path", str(self._file)]
        command += ["--admin-address-path", str(admin_file), "--disable-hot-restart"]
        command += ["--concurrency", str(self._concurrency), "--log-level", "warning"]
        command += ["--component-log-level", "misc:error"]
        environ = processes.clean_environment(self._directory)
        self._process = processes.start(command, log, environ)
        try:
            processes.until(lambda: self._is_ready(admin_file), self._process, log)
        except BaseException:
            processes.stop(self._process)
            raise
        return self

    def _is_ready(self, admin_file: Path) -> bool:
        admin = admin_file.read_text().strip() if admin_file.exists() else ""
        if not admin:
            return False
        try:
            listeners = json.loads(get(f"http://{admin}/listeners?format=json"))
            ready = get(f"http://{admin}/ready")
        except OSError:
            return False
        for listener in listeners.get("listener_statuses", []):
            address = listener["local_address"]["socket_address"]
            self.address = f"{address['address']}:{address['port_value']}"
        return ready.strip() == "LIVE" and bool(self.address)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            processes.stop(self._process)


def get(url: str) -> str:
    """Return a page of this machine, without any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text
