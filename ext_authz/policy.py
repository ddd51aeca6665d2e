"""The one decision: facts of a request and the rules give Inject, Pass, Tunnel or Deny.

Pure: no I/O, no clock, no grpc, no google. Whatever is unexpected denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum

from ext_authz.destination import Destination, forbidden_reason, parse_authority
from ext_authz.errors import BadDestinationError

HTTPS_PORT = 443
HTTP_PORT = 80


class Listener(StrEnum):
    """Where Envoy took the request (`context_extensions.listener`)."""

    FORWARD = "forward"
    REVERSE = "reverse"
    TUNNEL = "tunnel"  # cleartext HTTP inside a CONNECT
    INTERCEPTED = "intercepted"  # TLS inside a CONNECT that we opened
    BARE = "bare"  # an Envoy that is not ours: Istio, Envoy Gateway, hand-written
    UNKNOWN = "unknown"  # a word that this version does not know


class Header(StrEnum):
    """The header that carries a token."""

    AUTHORIZATION = "authorization"
    SERVERLESS = "x-serverless-authorization"
    PROXY = "proxy-authorization"


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
    TOKEN_UNAVAILABLE = ("token_unavailable", 503)

    def __init__(self, word: str, http_status: int) -> None:
        self.word = word
        self.http_status = http_status


@dataclass(frozen=True, slots=True)
class Request:
    """The facts that a decision depends on, and no others."""

    listener: Listener
    authority: str
    is_connect: bool = False
    has_authorization: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `destinations`: which hosts get which credential, for which audience."""

    match: str
    credential: str
    audience: str | None = "https://{host}"  # None: a static token, which has no audience
    header: Header | None = None  # None: auto
    host: str = field(init=False)
    port: int = field(init=False)
    is_suffix: bool = field(init=False)

    def __post_init__(self) -> None:
        """Split `match`. Raises BadDestinationError when it is no host, suffix or address."""
        pattern = self.match.removeprefix("*.")
        destination = parse_authority(pattern)
        if pattern != self.match and destination.is_address:
            raise BadDestinationError(f"*. goes before a name, not before the address {pattern}")
        object.__setattr__(self, "host", destination.host)
        object.__setattr__(self, "port", destination.port or HTTPS_PORT)
        object.__setattr__(self, "is_suffix", pattern != self.match)


@dataclass(frozen=True, slots=True)
class Inject:
    """Send over TLS with a token of `rule.credential` for `audience` in `header`."""

    rule: Rule
    destination: Destination
    audience: str
    header: Header
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


Decision = Inject | Pass | Tunnel | Deny


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, indexed so that a look-up costs one dictionary access per label of the host."""

    rules: tuple[Rule, ...]
    pass_others: bool = True
    upstream: Destination | None = None
    allow_loopback: bool = False
    metadata_host: str = ""
    _index: Mapping[tuple[bool, str, int], Rule] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Index the rules. Two rules with one match are a configuration error, found before."""
        index = {(rule.is_suffix, rule.host, rule.port): rule for rule in reversed(self.rules)}
        object.__setattr__(self, "_index", index)

    def matching(self, destination: Destination) -> list[Rule]:
        """Return every rule that fits, the one that wins first: exact, then the longest suffix."""
        port = HTTPS_PORT if destination.port in (None, HTTP_PORT) else destination.port
        found = [self._index.get((False, destination.host, port))]
        if not destination.is_address:
            labels = destination.host.split(".")
            found += [
                self._index.get((True, ".".join(labels[start:]), port))
                for start in range(1, len(labels))
            ]
        return [rule for rule in found if rule is not None]


def decide(request: Request, policy: Policy) -> Decision:
    """Decide what happens to a request."""
    if request.listener is Listener.UNKNOWN:
        message = "envoy.yaml names a listener that this service does not know; use its own file"
        return Deny(DenyCode.UNKNOWN_LISTENER, message, request.authority[:80])
    try:
        destination = _destination(request, policy)
    except BadDestinationError as error:
        return Deny(DenyCode.BAD_DESTINATION, error.message, request.authority[:80])
    if destination is None:
        return _no_upstream(request)
    reason = forbidden_reason(
        destination, allow_loopback=policy.allow_loopback, metadata_host=policy.metadata_host
    )
    if reason is not None:
        return _forbidden(destination, reason)
    rules = policy.matching(destination)
    rule = rules[0] if rules else None
    if rule is None and not policy.pass_others:
        return _denied(destination)
    if request.is_connect:
        return _tunnel(destination, rule)
    return _inject(request, destination, rule) if rule else _pass(request, destination)


def _destination(request: Request, policy: Policy) -> Destination | None:
    if request.listener is Listener.REVERSE:
        return policy.upstream
    return parse_authority(request.authority)


def _inject(request: Request, destination: Destination, rule: Rule) -> Inject:
    header = rule.header or (
        # Cloud Run prefers X-Serverless-Authorization, so the app keeps its own header.
        Header.SERVERLESS if request.has_authorization else Header.AUTHORIZATION
    )
    # An inbound X-Serverless-Authorization carries no valid signature and would win over ours.
    remove = () if header is Header.SERVERLESS else (Header.SERVERLESS,)
    authority = replace(destination, port=rule.port).authority(HTTPS_PORT)
    return Inject(rule, destination, audience_of(rule, destination), header, remove, authority)


def audience_of(rule: Rule, destination: Destination) -> str:
    """Return the audience that a rule gives this destination; empty for a static token."""
    if rule.audience is None:
        return ""
    return rule.audience.replace("{host}", without_traffic_tag(destination.host))


def without_traffic_tag(host: str) -> str:
    """Strip Cloud Run's `TAG---`: a tagged revision has its service's audience.

    Punycode labels (xn--) may hold three hyphens and carry no tag.
    """
    tag, separator, rest = host.partition("---")
    tagged = separator and rest and "." not in tag and not host.startswith("xn--")
    return rest if tagged else host


def _pass(request: Request, destination: Destination) -> Decision:
    if request.listener in (Listener.INTERCEPTED, Listener.REVERSE):
        # Its TLS was opened: sending it on in clear would betray the client. And the reverse proxy
        # has one upstream, which is never the host that the client names.
        return _denied(destination)
    return Pass(destination, request.authority)


def _tunnel(destination: Destination, rule: Rule | None) -> Decision:
    if destination.port is None:
        message = "CONNECT needs a port: expected host:port, got only a host"
        return Deny(DenyCode.BAD_DESTINATION, message, destination.host)
    via = Via.INSPECT if rule else Via.TUNNEL
    return Tunnel(destination, via, destination.authority(), rule)


def _forbidden(destination: Destination, reason: str) -> Deny:
    message = (
        f"{destination.authority()} is {reason}, which no request may reach through the sidecar; "
        f"add {destination.host} to NO_PROXY so that the app calls it directly"
    )
    return Deny(DenyCode.DESTINATION_FORBIDDEN, message, destination.authority())


def _denied(destination: Destination) -> Deny:
    message = (
        f"no rule matches {destination.authority()} and other_destinations is deny; "
        "add it to destinations"
    )
    return Deny(DenyCode.DESTINATION_DENIED, message, destination.authority())


def _no_upstream(request: Request) -> Deny:
    message = (
        "the reverse proxy has no upstream; set UPSTREAM_URL, --upstream or reverse_proxy.upstream "
        "to the URL of the private service"
    )
    return Deny(DenyCode.NO_UPSTREAM, message, request.authority[:80])
