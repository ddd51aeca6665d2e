"""What the tests of chained sources share: accept as the cache does, verify as a receiver does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ext_authz.clock import system_clock
from ext_authz.errors import SourceError
from ext_authz.settings import FileSecret
from ext_authz.sources import IdentitySource, Source
from ext_authz.sources.credential_files import CredentialFiles
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Claims
from ext_authz.standins.verifier import TokenVerifier
from ext_authz.tokens import accept
from tests.unit.fakes import AUDIENCE

ROBOT = "robot@local-project.iam.gserviceaccount.com"
MIDDLE = "middle@local-project.iam.gserviceaccount.com"


def verified(google: GoogleStandIn, source: Source, really: str = AUDIENCE) -> Claims:
    """Fetch, accept as the token cache does, and verify the signature as a receiver does."""
    token = accept(source.fetch(AUDIENCE), AUDIENCE, system_clock(), 0.5)
    return TokenVerifier(google.issuer).verify(token.text, {really})


def refused(source: Source) -> SourceError:
    """Fetch, which must fail with nothing chained that would be shown."""
    with pytest.raises(SourceError) as caught:
        accept(source.fetch(AUDIENCE), AUDIENCE, system_clock(), 0.5)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def written(tmp_path: Path, content: dict[str, Any], name: str = "file.json") -> Path:
    """Write a credential file."""
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def of_file(
    tmp_path: Path,
    content: dict[str, Any],
    *,
    trusted: tuple[str, ...] = (),
    executables: bool = False,
) -> IdentitySource:
    """Make the source of a credential file."""
    files = CredentialFiles(EndpointGuard(trusted), executables)
    return files.source_of(FileSecret(written(tmp_path, content)))


def bad_file(tmp_path: Path, content: dict[str, Any]) -> SourceError:
    """Make the source of a credential file, which must fail."""
    with pytest.raises(SourceError) as caught:
        of_file(tmp_path, content)
    assert caught.value.permanent
    assert "file.json" in caught.value.message
    return caught.value
