"""The real command `idtoken-sidecar` as a child process on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.polling import until
from tests.support.processes import children_of, program_of

READY_SECONDS = 20.0
STOP_SECONDS = 20.0
_OURS = ("IDTOKEN_SIDECAR_", "GOOGLE_", "GCE_", "CLOUDSDK_", "UPSTREAM_URL", "SIDECAR_URL")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

Address = tuple[str, int]


def clean_environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without proxies and credentials of this machine; `home` holds none either."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name.lower() not in _PROXIES
    }
    return {**kept, "HOME": str(home), **(more or {})}


def command_line(*arguments: str) -> list[str]:
    """How a test calls the command: the module, with this interpreter."""
    return [sys.executable, "-m", "ext_authz", *arguments]


def run_command(
    *arguments: str,
    home: Path,
    environ: Mapping[str, str] | None = None,
    timeout_seconds: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end and give its output as text."""
    return subprocess.run(
        command_line(*arguments),
        env=clean_environment(home, environ),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def free_ports(command: str) -> list[str]:
    """The flags that let every listener of a command choose a port."""
    names = ("status",) if command == "serve" else ("forward", "reverse", "admin", "status")
    return ["--listen=127.0.0.1:0", *(f"--{name}-port=0" for name in names)]


class Sidecar:
    """`run` (or `serve`, `exec`) until the ready file is there; a context manager.

    stdout and stderr go to files in `directory`, which also is the command's HOME. The log level
    is debug, so that leak tests see everything that could ever be logged.
    """

    def __init__(
        self,
        directory: Path,
        config: str = "",
        *flags: str,
        environ: Mapping[str, str] | None = None,
        command: str = "run",
        tail: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config = directory / "sidecar.yaml"
        self.config.write_text(config)
        self.ready_file = directory / "ready.json"
        self.environ = clean_environment(directory, environ)
        fixed = [f"--config={self.config}", f"--ready-file={self.ready_file}"]
        fixed += ["--log-level=debug", "--drain-seconds=2", *free_ports(command)]
        self.arguments = command_line(command, *fixed, *flags, *tail)
        self.addresses: dict[str, str | None] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The child process."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def forward(self) -> Address:
        """Where the forward proxy listens."""
        return self._address("forward")

    @property
    def reverse(self) -> Address:
        """Where the reverse proxy listens."""
        return self._address("reverse")

    @property
    def ext_authz(self) -> str:
        """Where gRPC listens, as a target."""
        return str(self.addresses["ext_authz"])

    @property
    def admin(self) -> Address:
        """Where Envoy's admin interface listens."""
        return self._address("admin")

    @property
    def proxy_url(self) -> str:
        """The value for HTTP_PROXY."""
        return f"http://{self.addresses['forward']}"

    @property
    def reverse_url(self) -> str:
        """The base URL of the reverse proxy."""
        return f"http://{self.addresses['reverse']}"

    def start(self) -> Self:
        """Start and wait until it is ready. Raises RuntimeError with its log when it ends."""
        with (
            (self.directory / "stdout").open("wb") as out,
            (self.directory / "stderr").open("wb") as err,
        ):
            self._process = subprocess.Popen(
                self.arguments, env=self.environ, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> int:
        """End it with SIGTERM (SIGKILL if it hangs); give its exit status. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # a stopped process would never hear
            self.process.terminate()
        return self.wait()

    def wait(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and give its exit status; kills it when that takes too long."""
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def stdout(self) -> str:
        """What it has written to stdout so far."""
        return (self.directory / "stdout").read_text()

    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return (self.directory / "stderr").read_text()

    def logs(self) -> str:
        """Both together."""
        return self.stdout() + self.stderr()

    def get_admin(self, path: str) -> str:
        """A page of Envoy's admin interface."""
        return get_text(f"http://{self.addresses['admin']}{path}")[1]

    def get_status(self, path: str) -> tuple[int, str]:
        """Status and text of one of the service's own pages."""
        return get_text(f"http://{self.addresses['status']}{path}")

    def metric(self, sample: str) -> float:
        """The value of one sample, e.g. `idtoken_sidecar_checks_total{…}`; 0 when it is absent."""
        for line in self.get_status("/metrics")[1].splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def reload(self, config: str) -> None:
        """Replace the configuration file as editors and Kubernetes do: by renaming."""
        partial = self.config.with_suffix(".new")
        partial.write_text(config)
        partial.replace(self.config)

    def envoy_pid(self) -> int:
        """The process id of its Envoy."""
        return next(pid for pid in self.children() if "envoy" in program_of(pid))

    def children(self) -> list[int]:
        """The process ids of its children."""
        return children_of(self.process.pid)

    def _address(self, name: str) -> Address:
        host, _, port = str(self.addresses[name]).rpartition(":")
        return host, int(port)

    def _wait_ready(self) -> None:
        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}: {self.logs()}")
            return self.ready_file.is_file()

        until(is_ready, READY_SECONDS, "the sidecar is ready", pause_seconds=0.02)
        self.addresses = json.loads(self.ready_file.read_text())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def get_text(url: str, timeout_seconds: float = 5.0) -> tuple[int, str]:
    """Status and text of a page, without any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
