"""Runs Envoy and the service as one thing: starts both, watches both, stops both."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ext_authz import log
from ext_authz.envoy_config import EnvoySettings, render
from ext_authz.envoy_process import EnvoyProcess, find_envoy
from ext_authz.errors import Problem, StartError
from ext_authz.lifecycle import stop_event, write_ready_file
from ext_authz.listen import Address, require_free
from ext_authz.server import Service, ServiceOptions
from ext_authz.settings import Settings

DEFAULT_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"  # also envoy.yaml's
_TRUST = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """Where everything listens; ports of 0 are chosen freely."""

    service: ServiceOptions
    bind: str
    forward_port: int
    reverse_port: int
    admin_port: int
    envoy: str | None
    concurrency: int
    stop_delay: int
    drain_seconds: int
    access_log: bool
    ready_file: Path | None


class Sidecar:
    """Envoy and the service, together."""

    def __init__(
        self,
        options: SidecarOptions,
        read: Callable[[], tuple[Settings, list[Problem]]],
        watched: Callable[[Settings], Iterable[Path]],
    ) -> None:
        """Raises ConfigError or StartError before anything is started."""
        self._options = options
        self.service = Service(options.service, read, watched)
        binary = find_envoy(options.envoy)
        self._envoy = EnvoyProcess(binary, options.concurrency, options.drain_seconds)
        self.addresses: dict[str, str | None] = {}

    async def start(self) -> None:
        """Start both and wait until both serve. Raises StartError; nothing is left running then."""
        try:
            self._require_free_ports()
            await self.service.start()
            bound = await self._envoy.start(render(self._envoy_settings()))
            await self.service.ready()
        except BaseException:
            await self.stop()
            raise
        self.addresses = {
            "forward": bound.get("forward"),
            "reverse": bound.get("reverse"),
            "ext_authz": str(self.service.listen),
            "admin": bound["admin"],
            "status": str(self.service.status),
        }
        if self._options.ready_file is not None:
            write_ready_file(self._options.ready_file, self.addresses)

    def ready_line(self) -> str:
        """Return the one line that says what listens where."""
        upstream = self.service.settings.upstream
        parts = [f"forward proxy http://{self.addresses['forward']}"]
        if upstream is not None:
            url = f"https://{upstream.authority(443)}"
            parts.append(f"reverse proxy http://{self.addresses['reverse']} to {url}")
        parts += [f"{name} {self.addresses[name]}" for name in ("ext_authz", "admin", "status")]
        return "idtoken-sidecar is ready: " + ", ".join(parts)

    async def failed(self) -> StartError:
        """Wait until one of the two dies; return the error that says which."""
        envoy = asyncio.create_task(self._envoy.wait())
        service = asyncio.create_task(self.service.failed())
        try:
            await asyncio.wait({envoy, service}, return_when=asyncio.FIRST_COMPLETED)
            if envoy.done():
                return self._envoy.died(envoy.result())
            return StartError(f"the ext_authz service died: its task {service.result()} ended")
        finally:
            envoy.cancel()
            service.cancel()

    async def drain(self) -> None:
        """Flip health and serve on for the time that `--stop-delay` gives the app."""
        await self.service.drain(self._options.stop_delay)

    async def stop(self) -> None:
        """Let running requests end, then stop Envoy and after it the service."""
        if self.addresses:
            await self.service.drain()
            await self._envoy.drain(self._options.drain_seconds)
        await self._envoy.stop()
        await self.service.stop(1.0)

    def trust_bundle(self, authority: Path, environ: Mapping[str, str]) -> str:
        """Write a bundle of the system's roots and the local CA; return its path.

        Raises StartError if there are no system roots: a command that trusts only our CA could
        reach nobody else.
        """
        system = environ.get("SSL_CERT_FILE") or system_ca_file() or DEFAULT_CA_FILE
        path = self._envoy.directory / "trust.pem"
        try:
            content = Path(system).read_bytes().rstrip() + b"\n" + authority.read_bytes()
        except OSError as error:
            raise StartError(f"exec: {error.filename} cannot be read: {error.strerror}") from None
        path.write_bytes(content)
        return str(path)

    def _require_free_ports(self) -> None:
        options = self._options
        require_free(options.bind, 0, "--bind")
        require_free(options.bind, options.forward_port, "--forward-port")
        if self.service.settings.upstream is not None:
            require_free(options.bind, options.reverse_port, "--reverse-port")
        require_free("127.0.0.1", options.admin_port, "--admin-port")

    def _envoy_settings(self) -> EnvoySettings:
        options, settings = self._options, self.service.settings
        reverse = Address(options.bind, options.reverse_port) if settings.upstream else None
        return EnvoySettings(
            forward=str(Address(options.bind, options.forward_port)),
            reverse=str(reverse) if reverse else None,
            admin=str(Address("127.0.0.1", options.admin_port)),
            ext_authz=str(self.service.listen),
            ca_file=str(settings.ca_file) if settings.ca_file else system_ca_file(),
            allow_loopback=settings.allow_loopback,
            dns_resolvers=settings.dns_resolvers,
            intercept_https=settings.interception is not None,
            access_log=options.access_log,
        )


def system_ca_file() -> str | None:
    """Return the system's trust bundle where it is not at the path that envoy.yaml names."""
    import ssl

    found = ssl.get_default_verify_paths().cafile
    return found if found and os.path.isfile(found) else None


async def run(sidecar: Sidecar) -> int:
    """Run until SIGTERM or SIGINT; return the exit status. Raises StartError if a part dies."""
    stop = stop_event(sidecar.service.reload)
    await sidecar.start()
    print(sidecar.ready_line(), flush=True)
    failed = asyncio.create_task(sidecar.failed())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and not stopped.done():
            raise failed.result()
        await sidecar.drain()
    finally:
        failed.cancel()
        stopped.cancel()
        await sidecar.stop()
    return 0


async def execute(sidecar: Sidecar, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the sidecar around one command; return the command's exit status."""
    await sidecar.start()
    failed = asyncio.create_task(sidecar.failed())
    try:
        process = await _start_command(
            command, {**environ, **command_environment(sidecar, environ)}
        )
        _pass_signals_on(process)
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({failed, ended}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and not ended.done():
            log.error(f"{failed.result().message}; the command runs on without it")
        status = await ended
    finally:
        failed.cancel()
        await sidecar.stop()
    return status if status >= 0 else 128 - status


async def _start_command(
    command: Sequence[str], environ: Mapping[str, str]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(*command, env=dict(environ))
    except FileNotFoundError:
        raise CommandError(f"exec: there is no program {command[0]!r}", 127) from None
    except OSError as error:
        raise CommandError(f"exec: {command[0]!r} cannot be run: {error.strerror}", 126) from None


class CommandError(StartError):
    """Raised when exec's command cannot be started; `exit_status` is what a shell would give."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def _pass_signals_on(process: asyncio.subprocess.Process) -> None:
    loop = asyncio.get_running_loop()
    # A terminal sends these two to the command as well: passing them on would send them twice.
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    from_terminal = {signal.SIGINT, signal.SIGQUIT} if at_terminal else set()

    def pass_on(number: signal.Signals) -> None:
        if process.returncode is None and number not in from_terminal:
            process.send_signal(number)

    for number in (*_PASSED_ON, signal.SIGHUP):
        loop.add_signal_handler(number, pass_on, number)


def command_environment(sidecar: Sidecar, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that send a command's requests through the sidecar."""
    proxy = f"http://{sidecar.addresses['forward']}"
    settings = sidecar.service.settings
    no_proxy = _no_proxy(settings, environ.get("NO_PROXY") or environ.get("no_proxy") or "")
    variables = {
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
    if sidecar.addresses["reverse"]:
        variables["SIDECAR_URL"] = f"http://{sidecar.addresses['reverse']}"
    if settings.interception is not None:
        bundle = sidecar.trust_bundle(settings.interception.certificate, environ)
        variables |= {"HTTPS_PROXY": proxy, "https_proxy": proxy, **dict.fromkeys(_TRUST, bundle)}
    return variables


def _no_proxy(settings: Settings, inherited: str) -> str:
    """Return NO_PROXY: what the sidecar refuses must go around it."""
    around = ["169.254.169.254", "metadata.google.internal"]
    if settings.metadata_host:
        around.append(settings.metadata_host)
    if not settings.allow_loopback:
        around += ["127.0.0.1", "localhost", "::1"]
    return ",".join([*filter(None, inherited.split(",")), *around])
