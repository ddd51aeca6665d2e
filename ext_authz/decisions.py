"""The facts that a decision is made from, and what it can be: frozen values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from ext_authz.destination import Destination
from ext_authz.rules import Header, Rule


class Listener(StrEnum):
    """Where Envoy took the request (`context_extensions.listener`)."""

    FORWARD = "forward"
    REVERSE = "reverse"
    TUNNEL = "tunnel"  # cleartext HTTP inside a CONNECT
    INTERCEPTED = "intercepted"  # TLS inside a CONNECT that we opened
    BARE = "bare"  # an Envoy that is not ours: Istio, Envoy Gateway, hand-written
    UNKNOWN = "unknown"  # a word that this version does not know


class Via(StrEnum):
    """How Envoy sends the request on (`route` in the dynamic metadata of the answer)."""

    TLS = "tls"
    PLAIN = "plain"
    TUNNEL = "tunnel"
    INSPECT = "inspect"
    INTERCEPT = "intercept"


class DenyCode(Enum):
    """Why a request is refused: the stable word of bodies and metrics, and the HTTP status."""

    BAD_DESTINATION = ("bad_destination", 400)
    DESTINATION_FORBIDDEN = ("destination_forbidden", 403)
    DESTINATION_DENIED = ("destination_denied", 403)
    NO_UPSTREAM = ("no_upstream", 404)
    UNKNOWN_LISTENER = ("unknown_listener", 500)
    BAD_OVERRIDE = ("bad_override", 500)
    TOKEN_UNAVAILABLE = ("token_unavailable", 503)

    def __init__(self, word: str, http_status: int) -> None:
        self.word = word
        self.http_status = http_status


class Override(NamedTuple):
    """What the configuration of the Envoy that asks says instead of the request's host.

    From `context_extensions` of its route: trusted, as no client can write them.
    """

    destination: str = ""
    audience: str = ""
    credential: str = ""


NO_OVERRIDE = Override()


@dataclass(frozen=True, slots=True)
class Request:
    """The facts that a decision depends on, and no others."""

    listener: Listener
    authority: str
    is_connect: bool = False
    has_authorization: bool = False
    has_proxy_authorization: bool = False
    path: str = ""  # only where a rule's audience depends on it
    override: Override = NO_OVERRIDE


@dataclass(frozen=True, slots=True)
class Inject:
    """Send over TLS with a token of `rule.credential` for `audience` in `header`."""

    rule: Rule
    destination: Destination
    audience: str
    header: Header
    remove: tuple[Header, ...]
    authority: str

    @property
    def depends_on_path(self) -> bool:
        """Say whether another path of the same host may get another answer."""
        return self.rule.depends_on_path


@dataclass(frozen=True, slots=True)
class Keep:
    """Send over TLS with the app's own header, as the rule says (`on_existing: keep`)."""

    rule: Rule
    destination: Destination
    remove: tuple[Header, ...]
    authority: str


@dataclass(frozen=True, slots=True)
class Pass:
    """Send on untouched, without a token."""

    destination: Destination
    authority: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Answer a CONNECT; `rule` is there if a token could be added inside."""

    destination: Destination
    via: Via
    authority: str
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse, with the sentence that says what to do."""

    code: DenyCode
    message: str
    destination: str
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Discover:
    """Look up this project first, then decide again: the host may be a short name."""


Decision = Inject | Keep | Pass | Tunnel | Deny | Discover
