"""Everything around one sidecar: Google, the private service, an upstream that records, DNS."""

from __future__ import annotations

import contextlib
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ext_authz.standins.certificates import Authority, LeafCertificate, make_authority
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.private_service import PrivateService
from tests.support.capture import CaptureServer
from tests.support.dns import DnsServer
from tests.support.private_apps import client_app
from tests.support.sidecar import Sidecar

SERVICE = "svc.localhost"  # resolves to loopback without any DNS server (RFC 6761)
CAPTURE = "capture.localhost"
CAPTURE_H1 = "h1.localhost"  # records, too, and speaks HTTP/1.1 only
COLD = "cold.localhost"  # each name below it is a destination that nobody has asked for yet
CLOUD = "a.run.app"


@dataclass
class World:
    """The stand-ins; a context manager. `sidecar()` makes sidecars that know them."""

    directory: Path
    authority: Authority = field(init=False)
    google: GoogleStandIn = field(init=False)
    service: PrivateService = field(init=False)
    capture: CaptureServer = field(init=False)
    capture_h1: CaptureServer = field(init=False)
    plain: CaptureServer = field(init=False)
    dns: DnsServer = field(init=False)

    def __post_init__(self) -> None:
        """Make them; they start with the context."""
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self.authority = make_authority(self.directory / "ca")
        names = (SERVICE, CAPTURE, CAPTURE_H1, f"*.{COLD}", f"*.{CLOUD}", "127.0.0.1")
        leaf = self.authority.issue(*names, file_name="service")
        self.google = GoogleStandIn()
        self.service = PrivateService(
            self.google.issuer, {f"https://{SERVICE}"}, leaf, app=client_app()
        )
        self.capture = CaptureServer(tls=server_tls(leaf))
        self.capture_h1 = CaptureServer(tls=server_tls(leaf, "http/1.1"))
        self.plain = CaptureServer()
        self.dns = DnsServer()
        for name in ("*.localhost", f"*.{CLOUD}"):
            self.dns.answer(name, "127.0.0.1")

    def __enter__(self) -> Self:
        """Start every stand-in."""
        servers = (self.google, self.service, self.capture, self.capture_h1, self.plain, self.dns)
        for server in servers:
            self._stack.enter_context(server)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every stand-in."""
        self._stack.close()

    @property
    def service_authority(self) -> str:
        """`host:port` of the private service."""
        return f"{SERVICE}:{self.service.port}"

    @property
    def capture_authority(self) -> str:
        """`host:port` of the recording upstream behind TLS."""
        return f"{CAPTURE}:{self.capture.port}"

    @property
    def service_url(self) -> str:
        """What an app calls for the private service: plain http."""
        return f"http://{self.service_authority}"

    @property
    def capture_url(self) -> str:
        """What an app calls for the recording upstream: plain http."""
        return f"http://{self.capture_authority}"

    def cold(self) -> str:
        """`host:port` of the private service under a name that no test has used."""
        host = f"n{next(self._numbers)}.{COLD}"
        self.service.guard.audiences.add(f"https://{host}")
        return f"{host}:{self.service.port}"

    def rules(self) -> list[str]:
        """The rules that send both upstreams a token."""
        names = [f"*.{COLD}", f"*.{CLOUD}"]
        ports = (self.service.port, self.capture.port)
        matches = [self.service_authority, self.capture_authority]
        matches.append(f"{CAPTURE_H1}:{self.capture_h1.port}")
        matches += [f"{name}:{port}" for name in names for port in ports]
        return [f'{{match: "{match}"}}' for match in matches]

    def config(self, *more: str, rules: Sequence[str] | None = None) -> str:
        """The configuration file: `rules`, trust, and further top-level lines."""
        lines = ["destinations:"]
        lines += [f"  - {rule}" for rule in (self.rules() if rules is None else rules)]
        ca_file = self.authority.certificate
        lines += [f"upstream: {{ca_file: {ca_file}, allow_loopback: true}}", *more]
        return "\n".join(lines) + "\n"

    def sidecar(
        self, directory: Path, *flags: str, config: str | None = None, command: str = "run"
    ) -> Sidecar:
        """A sidecar that is not started yet, with this world's trust, DNS and Google."""
        flags = (
            *(() if command == "serve" else (f"--dns-resolvers={self.dns.authority}",)),
            *flags,
        )
        text = self.config() if config is None else config
        environ = self.google.environment()
        return Sidecar(directory, text, *flags, environ=environ, command=command)


def server_tls(leaf: LeafCertificate, *alpn: str) -> ssl.SSLContext:
    """A server context for these protocols; HTTP/2 and HTTP/1.1 if none is named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.key)
    context.set_alpn_protocols(list(alpn) or ["h2", "http/1.1"])
    return context
