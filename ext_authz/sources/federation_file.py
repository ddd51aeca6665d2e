"""Reads a workload identity federation file (`external_account`) and refuses what is unsafe in it.

google-auth takes the URLs in such a file as they are and asks its caller to check them.
https://google.aip.dev/auth/4117
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ext_authz.errors import SourceError
from ext_authz.settings import FileSecret
from ext_authz.sources.endpoints import EndpointGuard, check_universe

STS_URL = "https://sts.googleapis.com/v1/token"
ALLOW_EXECUTABLES = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES"  # google-auth's own switch
_IMPERSONATION = re.compile(
    r"(https?://[^/]+)/v1/projects/-/serviceAccounts/([A-Za-z0-9@.:_-]+):generateAccessToken"
)
# EC2's metadata addresses, the only ones besides the guard's that a file may send us to.
_AWS_METADATA = ("169.254.169.254", "[fd00:ec2::254]")
_AWS_STS = re.compile(
    r"https://sts(-fips)?(\.(\{region\}|[a-z0-9-]+))?\.amazonaws\.com(\.cn)?/?\?[!-~]*"
)
_POOL = re.compile(r"//iam\.googleapis\.com/(projects/[^/]+/locations/[^/]+/[^/]+/[^/]+)/.+")


@dataclass(frozen=True, slots=True)
class FederationFile:
    """What the file says, checked. `source` is one of file, url, executable and aws."""

    info: Mapping[str, Any]
    source: str
    token_url: str
    email: str = ""
    iam_endpoint: str = ""

    @property
    def audience(self) -> str:
        """The provider that the subject token is for."""
        return str(self.info["audience"])

    @property
    def subject_file(self) -> FileSecret | None:
        """The file that the subject token is in."""
        path = self.info["credential_source"].get("file")
        return FileSecret(Path(path)) if self.source == "file" else None

    @property
    def member(self) -> str:
        """The pool's name in an IAM policy."""
        pool = _POOL.fullmatch(self.audience)
        name = pool.group(1) if pool else "projects/NUMBER/locations/global/POOL"
        return f"principalSet://iam.googleapis.com/{name}/*"


def read_federation(
    info: Mapping[str, Any], found: str, guard: EndpointGuard, *, allow_executables: bool
) -> FederationFile:
    """Check the file. Raises SourceError `bad_federation_file` or `untrusted_endpoint`."""
    if info.get("type") != "external_account":
        raise _bad(found, "a federation file (type external_account)")
    token_url = info.get("token_url") or STS_URL
    for name in ("token_url", "audience", "subject_token_type"):
        value = token_url if name == "token_url" else info.get(name)
        if not isinstance(value, str) or not value:
            raise _bad(found, f"a text under {name}")
    guard.check(token_url, f"token_url of {found}")
    check_universe(info, found, guard)
    source = _source(info.get("credential_source"), found)
    _check_source(source, info["credential_source"], found, guard)
    if source == "executable" and not allow_executables:
        raise _forbidden_program(found)
    return FederationFile(info, source, token_url, *_impersonation(info, found, guard))


def impersonated(url: object, found: str, guard: EndpointGuard) -> tuple[str, str]:
    """Return email and endpoint of a service_account_impersonation_url. Raises SourceError."""
    match = _IMPERSONATION.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        expected = "…/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken"
        raise _bad(found, f"{expected} under service_account_impersonation_url")
    guard.check(match.group(1), f"service_account_impersonation_url of {found}")
    return match.group(2), match.group(1)


def _impersonation(info: Mapping[str, Any], found: str, guard: EndpointGuard) -> tuple[str, str]:
    url = info.get("service_account_impersonation_url")
    return ("", "") if url is None else impersonated(url, found, guard)


def _source(source: object, found: str) -> str:
    if isinstance(source, dict):
        if "environment_id" in source:
            if source["environment_id"] == "aws1":
                return "aws"
            raise _bad(found, "environment_id aws1, the only one that there is")
        kinds = [kind for kind in ("file", "url", "executable", "certificate") if kind in source]
        if kinds == ["certificate"]:
            raise _bad(found, "a credential_source that is not an X.509 certificate (no support)")
        if len(kinds) == 1:
            return kinds[0]
    raise _bad(found, "one of file, url, executable or environment_id under credential_source")


def _check_source(kind: str, source: Mapping[str, Any], found: str, guard: EndpointGuard) -> None:
    where = f"credential_source of {found}"
    if kind == "aws":
        _check_aws(source, where, guard)
    elif kind == "executable":
        program = source["executable"]
        if not isinstance(program, dict) or not isinstance(program.get("command"), str):
            raise _bad(found, "a text under credential_source.executable.command")
    else:
        if not isinstance(source[kind], str) or not source[kind]:
            raise _bad(found, f"a text under credential_source.{kind}")
        if kind == "url":
            guard.check(source["url"], f"{where} (url)")


def _check_aws(source: Mapping[str, Any], where: str, guard: EndpointGuard) -> None:
    for name in ("url", "region_url", "imdsv2_session_token_url"):
        url = source.get(name)
        if url is not None and not _is_aws_metadata(url):
            guard.check(str(url), f"{where} ({name})")
    # It is never called by us: it goes signed to Google's STS, which calls it.
    url = source.get("regional_cred_verification_url")
    if not isinstance(url, str) or not _AWS_STS.fullmatch(url):
        raise _bad(where, "AWS's https://sts.{region}.amazonaws.com/?… to verify credentials")


def _is_aws_metadata(url: object) -> bool:
    text = url if isinstance(url, str) and re.fullmatch(r"[!-\[\]-~]+", url) else ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.netloc in _AWS_METADATA


def _forbidden_program(found: str) -> SourceError:
    return SourceError(
        f"{found}: running the program that it names is off; if you trust the file, set "
        f"{ALLOW_EXECUTABLES}=1 in the sidecar's environment",
        code="executable_not_allowed",
        permanent=True,
    )


def _bad(found: str, expected: str) -> SourceError:
    return SourceError(f"{found}: expected {expected}", code="bad_federation_file", permanent=True)
