"""Which servers a credential file may send us to: Google's, loopback, or those listed as trusted.

A key's signed assertion is good at Google wherever it is sent (its `aud` is fixed), so a hostile
file could otherwise make us hand it to any server.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ext_authz.destination import parse_authority
from ext_authz.errors import BadDestinationError, SourceError


@dataclass(frozen=True, slots=True)
class EndpointGuard:
    """Judges the URLs in credential files; `trusted` are the origins of `trusted_endpoints`."""

    trusted: tuple[str, ...] = ()

    def check(self, url: str, where: str) -> None:
        """Raise SourceError `untrusted_endpoint` unless the URL may be used."""
        try:
            parts = urlsplit(url)
            # Two readers of one URL must not find two hosts: no userinfo, no odd character.
            parse_authority(parts.netloc)
            trusted = _is_google(parts) or _is_loopback(parts.hostname or "")
            trusted = trusted or _origin(parts) in {_origin(urlsplit(t)) for t in self.trusted}
        except (ValueError, BadDestinationError):
            trusted = False
        if not trusted or parts.scheme not in ("https", "http") or _has_odd_character(url):
            raise SourceError(
                f"{where} is not Google's, not on loopback and not listed in trusted_endpoints",
                code="untrusted_endpoint",
                permanent=True,
            )


def check_universe(info: Mapping[str, Any], found: str, guard: EndpointGuard) -> None:
    """Raise SourceError if a credential file is of a universe that is neither Google's nor trusted.

    google-auth would send a signed assertion to iamcredentials.<universe_domain>.
    """
    universe = info.get("universe_domain") or "googleapis.com"
    if universe != "googleapis.com":
        guard.check(f"https://iamcredentials.{universe}/", f"universe_domain of {found}")


def _has_odd_character(url: str) -> bool:
    return "\\" in url or not all("!" <= character <= "~" for character in url)


def _is_google(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    own = host in ("googleapis.com", "accounts.google.com") or host.endswith(".googleapis.com")
    return own and parts.scheme == "https" and parts.port in (None, 443)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
