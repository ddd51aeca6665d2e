"""A sidecar that intercepts HTTPS: its CA, its configuration, and clients that trust it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.support.sidecar import Address, run_command
from tests.support.tunnels import Tunnel, open_tunnel

SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class LocalCa:
    """The files of `ca init`."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        """What signs."""
        return self.directory / "ca-key.pem"

    @property
    def setting(self) -> str:
        """The line of the configuration file that turns interception on."""
        files = f"ca_certificate: {self.certificate}, ca_key: {self.key}"
        return f"intercept_https: {{enabled: true, {files}}}"

    def bundle(self) -> Path:
        """Write the system's roots and this CA, as a client of the sidecar trusts them."""
        path = self.directory / "bundle.pem"
        roots = SYSTEM_ROOTS.read_text() if SYSTEM_ROOTS.is_file() else ""
        path.write_text(f"{roots}\n{self.certificate.read_text()}")
        return path

    def trust(self, *alpn: str) -> ssl.SSLContext:
        """A client context that trusts only this CA."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def make_ca(directory: Path, config: str | None) -> LocalCa:
    """Run `ca init` for the rules of a configuration, or for those that are built in."""
    directory.mkdir(parents=True, exist_ok=True)
    flags = [f"--directory={directory}"]
    if config is not None:
        (directory / "rules.yaml").write_text(config)
        flags.append(f"--config={directory / 'rules.yaml'}")
    done = run_command("ca", "init", *flags, home=directory)
    assert (done.returncode, done.stderr) == (0, ""), done
    return LocalCa(directory)


def open_tls(proxy: Address, authority: str, trust: ssl.SSLContext, sni: str | None = "") -> Tunnel:
    """TLS inside a CONNECT; `sni` is the authority's host unless another (or none) is given."""
    tunnel = open_tunnel(proxy, authority)
    try:
        tunnel.start_tls_to(trust, authority.rpartition(":")[0] if sni == "" else sni)
    except BaseException:
        tunnel.close()
        raise
    return tunnel


def issuer_of(tunnel: Tunnel) -> str:
    """The common name of who signed the certificate that the client was shown."""
    from cryptography import x509

    shown = x509.load_der_x509_certificate(tunnel.peer_certificate())
    return str(shown.issuer.rfc4514_string())
