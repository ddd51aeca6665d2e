"""`auto`: Application Default Credentials in Google's order, without falling from one into another.

A file that is named but unusable is an error; the metadata server is asked only when no file is
named, so that a token never carries another identity than the one configured.
"""

from __future__ import annotations

from ext_authz.errors import SourceError
from ext_authz.settings import AutoCredential, FileSecret
from ext_authz.sources import Source
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.metadata import MetadataSource
from ext_authz.sources.secret_files import read_json
from ext_authz.sources.service_account import ServiceAccountSource

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def default_source(credential: AutoCredential, metadata_host: str, guard: EndpointGuard) -> Source:
    """Choose the source. Raises SourceError when a file is there but cannot be used."""
    if credential.key_file is not None:
        return source_of_file(FileSecret(credential.key_file), f"{VARIABLE}=", guard)
    well_known = credential.well_known_file
    if well_known is not None and well_known.is_file():
        return source_of_file(FileSecret(well_known), "", guard)
    hint = (
        f"{VARIABLE} is not set and there is no gcloud login at {well_known}: "
        "set one of them, or run where there is a metadata server"
    )
    return MetadataSource(metadata_host, hint=hint)


def source_of_file(secret: FileSecret, prefix: str, guard: EndpointGuard) -> Source:
    """Build the source that a credential file's `type` asks for. Raises SourceError."""
    info = read_json(secret, "bad_key_file")
    kind = info.get("type")
    if kind == "service_account":
        return ServiceAccountSource(info, f"{prefix}{secret}", guard)
    shown = kind if isinstance(kind, str) and len(kind) < 60 else "none"
    raise SourceError(
        f"{prefix}{secret}: expected a credential of type service_account, got type {shown}",
        code="unsupported_credential",
        permanent=True,
    )
