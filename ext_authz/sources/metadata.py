"""Tokens and facts of the machine itself, from the metadata server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import google.auth.transport

from ext_authz.errors import SourceError
from ext_authz.sources.access_tokens import CLOUD_PLATFORM_SCOPE, AccessToken, AccessTokens
from ext_authz.sources.google_errors import advised, translated
from ext_authz.sources.transport import BoundedTransport, RefusedError
from ext_authz.tokens import Fetched, unverified_claims

DEFAULT_HOST = "metadata.google.internal"
_FLAVOR = {"Metadata-Flavor": "Google"}
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_REGION = re.compile(r"projects/[0-9]{1,20}/regions/([a-z][a-z0-9-]{1,40})", re.ASCII)


class MetadataTransport(BoundedTransport):
    """Takes an answer of Google's own address only if it says that it is a metadata server's.

    A stand-in that somebody named (GCE_METADATA_HOST) was chosen, and need not say so.
    """

    def __init__(self, host: str = "") -> None:
        super().__init__("the metadata server")
        self._must_say = host in ("", DEFAULT_HOST)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> google.auth.transport.Response:
        """Request `url`. Raises SourceError."""
        answer = super().__call__(url, method, body, headers, timeout, **kwargs)
        if self._must_say and answer.headers.get("metadata-flavor", "").lower() != "google":
            what = "answered without Metadata-Flavor: Google, so it is something else"
            raise self._error(url, "source_nonsense", what)
        return answer


class MetadataSource:
    """Asks `instance/service-accounts/default/identity?format=full`.

    `hint` is added to the sentence when the server cannot be reached at all.
    """

    kind = "metadata server"
    note = ""
    member = "serviceAccount:EMAIL_OF_THIS_MACHINE"

    def __init__(self, host: str = "", *, hint: str = "") -> None:
        self.found = host or DEFAULT_HOST
        self.access = AccessTokens(self._mint)
        self._hint = hint
        self._transport = MetadataTransport(host)

    def fetch(self, audience: str) -> Fetched:
        """Return a token, perhaps one already partly used. Raises SourceError."""
        with self._explained():
            return self._fetch(audience)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with advised(_advice), translated(f"the metadata server at {self.found}"):
                yield
        except SourceError as error:
            if self._hint and error.code in ("source_unreachable", "source_slow"):
                error.message = f"{error.message}; {self._hint}"
            raise

    def _fetch(self, audience: str) -> Fetched:
        # Asked by ourselves: google-auth's client costs 17 MB and 0.15 s of CPU to import, and goes
        # to https, with certificates that our transport has not, where the machine offers mTLS.
        path = f"instance/service-accounts/default/identity?audience={quote(audience, safe='')}"
        text = _get(self._transport, self.found, f"{path}&format=full").strip()
        if not _is_token(text):
            raise ValueError  # translated
        return Fetched(text, mints_anew=False)

    def _mint(self) -> AccessToken:
        # Asked by ourselves: google-auth makes two calls and may want a certificate-bound token.
        scope = quote(CLOUD_PLATFORM_SCOPE, safe="")
        with self._explained():
            path = f"instance/service-accounts/default/token?scopes={scope}"
            answer = json.loads(_get(self._transport, self.found, path))
            return AccessToken(answer["access_token"], float(answer["expires_in"]))


def project_number_and_region(host: str = "") -> tuple[str, str]:
    """Return what deterministic Cloud Run URLs are made of: project number and region.

    Two requests, each within the transport's bound; blocks. Raises SourceError.
    """
    host = host or DEFAULT_HOST
    transport = MetadataTransport(host)
    number = _get(transport, host, "project/numeric-project-id").strip()
    region = _REGION.fullmatch(_get(transport, host, "instance/region").strip())
    if not _NUMBER.fullmatch(number) or region is None:
        raise SourceError(
            f"the metadata server at {host}: expected a project number and a region, "
            "got something else",
            code="source_nonsense",
        )
    return number, region.group(1)


def _is_token(text: str) -> bool:
    try:
        return "exp" in unverified_claims(text)
    except SourceError:
        return False


def _get(transport: MetadataTransport, host: str, path: str) -> str:
    answer = transport(f"http://{host}/computeMetadata/v1/{path}", headers=_FLAVOR)
    return bytes(answer.data).decode("ascii", "replace")


def _advice(error: RefusedError) -> tuple[str, str]:
    if error.status == 404:
        return (
            "this machine or service has no service account: attach one, or name a credential of "
            "another kind",
            "",
        )
    return "", ""
