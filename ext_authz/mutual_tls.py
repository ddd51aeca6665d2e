"""TLS for `--listen` with client certificates: who may ask for tokens from another machine."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ext_authz import log
from ext_authz.errors import StartError, UsageError
from ext_authz.reload import Signature, signature
from ext_authz.rpc import Answer, Caller, RpcError, Status, UnaryCall


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Where certificate, key and client CA are; `clients` limits which names may call (none: all).

    A name is a subject alternative name (DNS or URI, as SPIFFE has them) or the common name.
    """

    certificate: Path
    key: Path
    client_ca: Path
    clients: frozenset[str] = frozenset()

    def files(self) -> tuple[Path, ...]:
        """Return the three files."""
        return self.certificate, self.key, self.client_ca

    def context(self) -> ssl.SSLContext:
        """Return a context that follows the files. Raises StartError if they are unusable."""
        return _Following(self)

    def read(self) -> ssl.SSLContext | None:
        """Return a context for the files as they are, or None after logging why there is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        context.options |= ssl.OP_NO_TICKET  # a resumed session would not be verified again
        context.num_tickets = 0
        try:
            context.load_verify_locations(self.client_ca)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                log.error("the key of --tls-key is not that of --tls-certificate")
            else:
                log.error("a TLS file holds no PEM that can be used", file=str(self.certificate))
            return None
        except OSError as error:
            log.error(f"a TLS file cannot be read: {error.strerror}", file=error.filename)
            return None
        except ValueError:
            log.error("a TLS file cannot be used: expected a key without a password")
            return None
        return context

    def guard(self, call: UnaryCall) -> UnaryCall:
        """Return the method, answering only clients whose certificate has an allowed name."""
        if not self.clients:
            return call

        def guarded(message: bytes, caller: Caller) -> Answer:
            if self.clients.isdisjoint(caller.names):
                raise RpcError(
                    Status.PERMISSION_DENIED,
                    "the client's certificate has no name that --allowed-clients lists",
                )
            return call(message, caller)

        return guarded


class _Following(ssl.SSLContext):
    """Begins each handshake with the files as they are then; unusable ones change nothing."""

    def __new__(cls, tls: MutualTls) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: MutualTls) -> None:
        self._tls = tls
        self._seen: Signature = signature(tls.files())
        first = tls.read()
        if first is None:
            raise StartError("--tls-certificate, --tls-key or --tls-client-ca cannot be used")
        self._current = first

    def wrap_bio(self, *args: Any, **more: Any) -> ssl.SSLObject:
        """Asyncio calls this for each connection."""
        now = signature(self._tls.files())
        if now != self._seen:
            self._seen = now
            self._current = self._tls.read() or self._current
        return self._current.wrap_bio(*args, **more)


def _no_password() -> str:
    raise ValueError  # never ask on a terminal


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
