"""TLS for `--listen` with client certificates: who may ask for tokens from another machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ext_authz import log
from ext_authz.errors import StartError, UsageError
from ext_authz.reload import Signature, signature

Method = Callable[[Any, Any], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Where certificate, key and client CA are; `clients` limits which names may call (none: all).

    A name is a subject alternative name (DNS or URI, as SPIFFE has them) or the common name.
    """

    certificate: Path
    key: Path
    client_ca: Path
    clients: frozenset[str] = frozenset()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files. Raises StartError if they are unusable."""
        first = self.read()
        if first is None:
            raise StartError("--tls-certificate, --tls-key or --tls-client-ca cannot be used")
        fetcher: Any = _Fetcher(self)
        return grpc.dynamic_ssl_server_credentials(
            first, fetcher, require_client_authentication=True
        )

    def files(self) -> tuple[Path, ...]:
        """Return the three files."""
        return self.certificate, self.key, self.client_ca

    def read(self) -> Any | None:
        """Return grpc's certificate configuration, or None after logging why there is none."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificates

        try:
            certificate, key, client_ca = (path.read_bytes() for path in self.files())
            own = load_pem_x509_certificates(certificate)[0].public_key()
            load_pem_x509_certificates(client_ca)
            if load_pem_private_key(key, None).public_key() != own:
                log.error("the key of --tls-key is not that of --tls-certificate")
                return None
        except OSError as error:
            log.error(f"a TLS file cannot be read: {error.strerror}", file=error.filename)
            return None
        except (ValueError, TypeError, IndexError):
            log.error("a TLS file holds no PEM that can be used", file=str(self.certificate))
            return None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def guard(self, method: Method) -> Method:
        """Return the method, answering only clients whose certificate has an allowed name."""
        if not self.clients:
            return method

        async def guarded(request: Any, context: Any) -> bytes:
            if self.clients.isdisjoint(_names(context.auth_context())):
                await context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "the client's certificate has no name that --allowed-clients lists",
                )
            return await method(request, context)

        return guarded


class _Fetcher:
    """Reads the files again when they changed; grpc asks at every handshake."""

    def __init__(self, tls: MutualTls) -> None:
        self._tls = tls
        self._seen: Signature = signature(tls.files())

    def __call__(self) -> Any | None:
        now = signature(self._tls.files())
        if now == self._seen:
            return None
        self._seen = now
        return self._tls.read()


def mutual_tls(
    certificate: str | None, key: str | None, client_ca: str | None, clients: str | None
) -> MutualTls | None:
    """Build it of the flags; None if none is given. Raises UsageError if some are missing."""
    given = [certificate, key, client_ca]
    if clients is None and not any(given):
        return None
    if certificate is None or key is None or client_ca is None:
        raise UsageError("mTLS needs --tls-certificate, --tls-key and --tls-client-ca, all three")
    names = frozenset(filter(None, map(str.strip, (clients or "").split(","))))
    if clients is not None and not names:
        raise UsageError("--allowed-clients: expected at least one name, got none")
    return MutualTls(Path(certificate), Path(key), Path(client_ca), names)


def _names(auth_context: dict[str, Iterable[bytes]]) -> set[str]:
    found = (*auth_context.get("x509_subject_alternative_name", ()),)
    found += (*auth_context.get("x509_common_name", ()),)
    return {name.decode("utf-8", "replace") for name in found}
