"""What the sidecar was told to do: frozen values, made by `config` and read by everybody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ext_authz.destination import Destination
from ext_authz.policy import Policy, Rule

DEFAULT = "default"
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
    """Application Default Credentials: GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, metadata."""

    key_file: Path | None = None
    well_known_file: Path | None = None


@dataclass(frozen=True, slots=True)
class MetadataCredential:
    """The identity of the machine or service, from the metadata server."""


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


Credential = AutoCredential | MetadataCredential | NoCredential | KeyCredential | StaticCredential


@dataclass(frozen=True, slots=True)
class NamedCredential:
    """A credential and where it was configured, for error messages."""

    name: str
    credential: Credential
    file: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the configuration file, the environment and the flags say about policy."""

    credentials: Mapping[str, NamedCredential]
    rules: tuple[Rule, ...]
    pass_others: bool = True
    upstream: Destination | None = None
    refresh_ahead: bool = True
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
        )


def files_of(credential: Credential) -> tuple[Path, ...]:
    """Return the files that a credential is read from."""
    match credential:
        case AutoCredential(key_file, well_known):
            return tuple(path for path in (key_file or well_known,) if path is not None)
        case KeyCredential(FileSecret(path)) | StaticCredential(FileSecret(path)):
            return (path,)
    return ()
