"""What the sidecar was told to do: frozen values, made by `config` and read by everybody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ext_authz.destination import Destination
from ext_authz.policy import Policy
from ext_authz.rules import Rule
from ext_authz.short_names import Project

_LIKE_A_PATH = re.compile(r"[^{}\"\n\0]{1,255}")
BUILT_IN_MATCH = "*.run.app"


@dataclass(frozen=True, slots=True)
class FileSecret:
    """A secret in a file; read by its source, never kept in settings."""

    path: Path

    def __str__(self) -> str:
        """Return the path, unless somebody put the secret itself where its path belongs."""
        text = str(self.path)
        return text if _LIKE_A_PATH.fullmatch(text) else "(what is given is no path)"


@dataclass(frozen=True, slots=True)
class EnvSecret:
    """A secret in an environment variable, whose value is kept as settings are read once."""

    name: str
    value: str = field(repr=False)

    def __str__(self) -> str:
        return f"environment variable {self.name}"


Secret = FileSecret | EnvSecret


@dataclass(frozen=True, slots=True)
class AutoCredential:
    """Application Default Credentials: GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, metadata.

    `gcloud` is the program where it stands in for the metadata server, which this machine lacks.
    """

    key_file: Path | None = field(default=None, repr=False)
    well_known_file: Path | None = None
    gcloud: Path | None = None
    allow_executables: bool = False


@dataclass(frozen=True, slots=True)
class MetadataCredential:
    """The identity of the machine or service, from the metadata server."""


@dataclass(frozen=True, slots=True)
class GcloudCredential:
    """Whoever is logged in with the gcloud command; `program` is None where it is not on PATH."""

    program: Path | None = None


@dataclass(frozen=True, slots=True)
class NoCredential:
    """No token is ever sent; a rule that needs one answers 503."""


@dataclass(frozen=True, slots=True)
class KeyCredential:
    """A service account key in JSON, raw or base64."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class StaticCredential:
    """A Bearer token of one's own, which is sent as it is."""

    secret: Secret


@dataclass(frozen=True, slots=True)
class WorkloadCredential:
    """A federation file (external_account), whose principal acts as the service account `email`.

    Without `email` and `iam_endpoint` both come from the file's own impersonation URL.
    """

    secret: Secret
    email: str = ""
    iam_endpoint: str = ""
    allow_executables: bool = False


@dataclass(frozen=True, slots=True)
class ImpersonatedCredential:
    """The service account `email`, which `source` may act as, by way of `delegates` in order."""

    email: str
    source: Credential
    source_name: str
    delegates: tuple[str, ...] = ()
    iam_endpoint: str = ""


Credential = (
    AutoCredential
    | MetadataCredential
    | GcloudCredential
    | NoCredential
    | KeyCredential
    | StaticCredential
    | WorkloadCredential
    | ImpersonatedCredential
)


@dataclass(frozen=True, slots=True)
class NamedCredential:
    """A credential and where it was configured, for error messages."""

    name: str
    credential: Credential
    file: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Interception:
    """The CA that `intercept_https` mints leaf certificates with."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the configuration file, the environment and the flags say about policy."""

    credentials: Mapping[str, NamedCredential]
    rules: tuple[Rule, ...]
    pass_others: bool = True
    upstream: Destination | None = None
    refresh_ahead: bool = True
    worker_cache: bool = True
    prewarm: tuple[str, ...] = ()
    services: Mapping[str, Destination] = field(default_factory=dict)
    discovery: bool = True
    project: Project | None = None
    interception: Interception | None = None
    ca_file: Path | None = None
    allow_loopback: bool = False
    dns_resolvers: tuple[str, ...] = ()
    trusted_endpoints: tuple[str, ...] = ()
    metadata_host: str = ""

    def files(self) -> tuple[Path, ...]:
        """Return every file whose change calls for a reload."""
        return tuple(
            path for named in self.credentials.values() for path in files_of(named.credential)
        )

    def policy(self) -> Policy:
        """Return the part that decisions are made from."""
        return Policy(
            rules=self.rules,
            pass_others=self.pass_others,
            upstream=self.upstream,
            allow_loopback=self.allow_loopback,
            metadata_host=self.metadata_host,
            services=self.services,
            discovery=self.discovery,
            project=self.project,
            interception=self.interception is not None,
            credentials=frozenset(self.credentials),
            static_credentials=frozenset(
                name
                for name, named in self.credentials.items()
                if isinstance(named.credential, StaticCredential)
            ),
        )


def files_of(credential: Credential) -> tuple[Path, ...]:
    """Return the files that a credential is read from."""
    match credential:
        case AutoCredential(key_file, well_known):
            return tuple(path for path in (key_file or well_known,) if path is not None)
        case ImpersonatedCredential(_, source):
            return files_of(source)
        case (
            KeyCredential(FileSecret(path))
            | StaticCredential(FileSecret(path))
            | WorkloadCredential(FileSecret(path))
        ):
            return (path,)
    return ()
