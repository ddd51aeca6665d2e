"""Makes the source that a credential file's `type` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ext_authz.errors import SourceError
from ext_authz.settings import Secret
from ext_authz.sources import IdentitySource
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.federation_file import impersonated
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.secret_files import read_json
from ext_authz.sources.service_account import ServiceAccountSource
from ext_authz.sources.user import UserSource
from ext_authz.sources.workload_identity import workload_source

_Reader = Callable[[Mapping[str, Any], str], IdentitySource]


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Reads files of every type that Application Default Credentials have and we can use."""

    guard: EndpointGuard
    allow_executables: bool = False

    def source_of(self, secret: Secret, prefix: str = "") -> IdentitySource:
        """Return the source; `prefix` says where the file was named. Raises SourceError."""
        return self._source(read_json(secret, "bad_key_file"), f"{prefix}{secret}")

    def _source(self, info: Mapping[str, Any], found: str) -> IdentitySource:
        readers: dict[str, _Reader] = {
            "service_account": lambda info, found: ServiceAccountSource(info, found, self.guard),
            "authorized_user": lambda info, found: UserSource(info, found, self.guard),
            "external_account": self._federation,
            "impersonated_service_account": self._impersonation,
        }
        kind = info.get("type")
        if isinstance(kind, str) and kind in readers:
            return readers[kind](info, found)
        shown = kind if isinstance(kind, str) and len(kind) < 60 and kind.isprintable() else "none"
        raise SourceError(
            f"{found}: expected a credential of type {', '.join(readers)}, got type {shown}",
            code="unsupported_credential",
            permanent=True,
        )

    def _federation(self, info: Mapping[str, Any], found: str) -> IdentitySource:
        return workload_source(info, found, self.guard, allow_executables=self.allow_executables)

    def _impersonation(self, info: Mapping[str, Any], found: str) -> IdentitySource:
        """What `gcloud auth application-default login --impersonate-service-account` writes."""
        url = info.get("service_account_impersonation_url")
        email, endpoint = impersonated(url, found, self.guard)
        inner = info.get("source_credentials")
        if not isinstance(inner, dict) or inner.get("type") == "impersonated_service_account":
            sentence = f"{found}: expected a key, a login or a federation under source_credentials"
            raise SourceError(sentence, code="bad_key_file", permanent=True)
        delegates = info.get("delegates") or []
        if not isinstance(delegates, list) or not all(isinstance(one, str) for one in delegates):
            sentence = f"{found}: expected a list of service accounts under delegates"
            raise SourceError(sentence, code="bad_key_file", permanent=True)
        chain = tuple(one.removeprefix("projects/-/serviceAccounts/") for one in delegates)
        source = self._source(inner, f"source_credentials of {found}")
        shown = f"{found} ({email} by {source.kind})"
        return ImpersonationSource(source, Target(email, chain), endpoint, found=shown)
