"""`auto`: Application Default Credentials in Google's order, without falling from one into another.

A file that is named but unusable is an error; the next is tried only where the one before is
absent, so that a token never carries another identity than the one configured. The gcloud command
comes in only where there is no metadata server: `config_credentials` decides that without asking
the network, so that the same machine always gives the same answer.
"""

from __future__ import annotations

from ext_authz.settings import AutoCredential, FileSecret
from ext_authz.sources import IdentitySource
from ext_authz.sources.credential_files import CredentialFiles
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.gcloud import GcloudSource
from ext_authz.sources.metadata import MetadataSource

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"


def default_source(
    credential: AutoCredential, metadata_host: str, guard: EndpointGuard
) -> IdentitySource:
    """Choose the source. Raises SourceError when a file is there but cannot be used."""
    files = CredentialFiles(guard, credential.allow_executables)
    if credential.key_file is not None:
        return files.source_of(FileSecret(credential.key_file), f"{VARIABLE}=")
    well_known = credential.well_known_file
    if well_known is not None and well_known.is_file():
        return files.source_of(FileSecret(well_known))
    if credential.gcloud is not None:
        return GcloudSource(credential.gcloud)
    hint = (
        f"{VARIABLE} is not set and there is no gcloud login at {well_known}: "
        "set one of them, or run where there is a metadata server"
    )
    return MetadataSource(metadata_host, hint=hint)
