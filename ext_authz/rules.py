"""A rule: which hosts get which credential, for which audience, in which header (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from ext_authz.destination import Destination, parse_authority
from ext_authz.errors import BadDestinationError

HTTPS_PORT = 443
HTTP_PORT = 80
DEFAULT = "default"  # the credential of a rule that names none
DEFAULT_AUDIENCE = "https://{host}"
_FUNCTION = re.compile(r"(/[A-Za-z0-9_-]{1,63})(?:[/?#]|$)", re.ASCII)


class Header(StrEnum):
    """The header that carries a token."""

    AUTHORIZATION = "authorization"
    SERVERLESS = "x-serverless-authorization"
    PROXY = "proxy-authorization"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `destinations`: which hosts get which credential, for which audience."""

    match: str
    credential: str
    audience: str | None = DEFAULT_AUDIENCE  # None: a static token, which has no audience
    header: Header | None = None  # None: auto
    keep_existing: bool = False  # the app's own header of that name stays, and no token is sent
    host: str = field(init=False)
    port: int = field(init=False)
    is_suffix: bool = field(init=False)

    @property
    def depends_on_path(self) -> bool:
        """Say whether the audience holds a part of the path."""
        return self.audience is not None and "{path}" in self.audience

    def __post_init__(self) -> None:
        """Split `match`. Raises BadDestinationError when it is no host, suffix or address."""
        pattern = self.match.removeprefix("*.")
        destination = parse_authority(pattern)
        if pattern != self.match and destination.is_address:
            raise BadDestinationError(f"*. goes before a name, not before the address {pattern}")
        object.__setattr__(self, "host", destination.host)
        object.__setattr__(self, "port", destination.port or HTTPS_PORT)
        object.__setattr__(self, "is_suffix", pattern != self.match)


def audience_of(rule: Rule, destination: Destination, path: str = "") -> str:
    """Return the audience that a rule gives this destination; empty for a static token.

    `{path}` is the first segment of the path, as `/NAME`: a Cloud Function of the first generation
    is named by it. Raises BadDestinationError where the path names none.
    """
    if rule.audience is None:
        return ""
    audience = rule.audience.replace("{host}", without_traffic_tag(destination.host))
    return audience.replace("{path}", function_path(path)) if rule.depends_on_path else audience


def function_path(path: str) -> str:
    """Return `/NAME` of `/NAME/rest?query`; the bound on what counts as the function's name.

    A name has 1 to 63 letters, digits, hyphens and underscores (Cloud Functions). Anything else
    would let a caller mint tokens for audiences of any shape. Raises BadDestinationError.
    """
    found = _FUNCTION.match(path)
    if found is None:
        raise BadDestinationError(
            "this destination's audience holds the function's name: expected a path that begins "
            "with /NAME of 1 to 63 letters, digits, hyphens and underscores"
        )
    return found.group(1)


def without_traffic_tag(host: str) -> str:
    """Strip Cloud Run's `TAG---`: a tagged revision has its service's audience.

    Punycode labels (xn--) may hold three hyphens and carry no tag.
    """
    tag, separator, rest = host.partition("---")
    tagged = separator and rest and "." not in tag and not host.startswith("xn--")
    return rest if tagged else host
