"""The one decision: facts of a request and the rules give Inject, Keep, Pass, Tunnel or Deny.

Pure: no I/O, no clock, no grpc, no google. Whatever is unexpected denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ext_authz.decisions import (
    Decision,
    Deny,
    DenyCode,
    Discover,
    Inject,
    Keep,
    Listener,
    Override,
    Pass,
    Request,
    Tunnel,
    Via,
)
from ext_authz.destination import Destination, forbidden_reason, parse_authority
from ext_authz.errors import BadDestinationError, printable
from ext_authz.rules import (
    DEFAULT,
    DEFAULT_AUDIENCE,
    HTTP_PORT,
    HTTPS_PORT,
    Header,
    Rule,
    audience_of,
)
from ext_authz.short_names import Project, deterministic, short_name


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, indexed so that a look-up costs one dictionary access per label of the host."""

    rules: tuple[Rule, ...]
    pass_others: bool = True
    upstream: Destination | None = None
    allow_loopback: bool = False
    metadata_host: str = ""
    services: Mapping[str, Destination] = field(default_factory=dict)
    discovery: bool = False
    project: Project | None = None
    credentials: frozenset[str] = frozenset()
    static_credentials: frozenset[str] = frozenset()
    interception: bool = False
    needs_path: bool = field(init=False)
    _index: Mapping[tuple[bool, str, int], Rule] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Index the rules. Two rules with one match are a configuration error, found before."""
        index = {(rule.is_suffix, rule.host, rule.port): rule for rule in reversed(self.rules)}
        object.__setattr__(self, "_index", index)
        needs_path = any(rule.depends_on_path for rule in self.rules)
        object.__setattr__(self, "needs_path", needs_path)

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
        named = _named(request, policy)
        if named is None:
            return _no_upstream(request)
        if (reason := _forbidden_reason(named, policy)) is not None:
            return _forbidden(named, reason)
        # Another Envoy's own route decides where a request goes: a name that is short to us is an
        # everyday name in its cluster, and must not get a token of ours.
        own = request.listener is not Listener.BARE or bool(request.override.destination)
        destination = _resolved(named, policy) if own else named
    except BadDestinationError as error:
        return Deny(DenyCode.BAD_DESTINATION, error.message, printable(request.authority))
    if destination is None:
        return Discover()
    if (reason := _forbidden_reason(destination, policy)) is not None:
        return _forbidden(destination, reason)
    is_short = destination != named
    if is_short and request.is_connect and destination.port is None:
        destination = replace(destination, port=HTTPS_PORT)  # the name stood for an https:// URL
    return _decide(request, destination, policy, is_short=is_short)


def _decide(
    request: Request, destination: Destination, policy: Policy, *, is_short: bool
) -> Decision:
    matched = next(iter(policy.matching(destination)), None)
    if matched is None and is_short:
        matched = Rule(destination.authority(), DEFAULT)  # who names our service wants its token
    rule = _overridden(request.override, matched, destination, policy)
    if isinstance(rule, Deny):
        return rule
    if rule is None and not policy.pass_others:
        return _denied(destination)
    if request.is_connect:
        return _tunnel(destination, rule, policy)
    return _inject(request, destination, rule) if rule else _pass(request, destination)


def _named(request: Request, policy: Policy) -> Destination | None:
    """Return where the request says it goes; None for a reverse proxy without an upstream."""
    if request.override.destination:
        return parse_authority(request.override.destination)
    if request.listener is Listener.REVERSE:
        return policy.upstream
    return parse_authority(request.authority)


def _resolved(destination: Destination, policy: Policy) -> Destination | None:
    """Return what a short name stands for, any other host as it is, None to look up the project."""
    service = policy.services.get(destination.host)
    if service is not None:
        return service
    short = short_name(destination) if policy.discovery else None
    if short is None or policy.matching(destination):
        return destination
    return deterministic(short, policy.project) if policy.project else None


def _forbidden_reason(destination: Destination, policy: Policy) -> str | None:
    return forbidden_reason(
        destination, allow_loopback=policy.allow_loopback, metadata_host=policy.metadata_host
    )


def _overridden(
    override: Override, rule: Rule | None, destination: Destination, policy: Policy
) -> Rule | Deny | None:
    """Apply what the asking Envoy's own configuration says of audience and credential."""
    if not override.audience and not override.credential:
        return rule
    matched = rule
    rule = rule or Rule(destination.authority(HTTPS_PORT), DEFAULT)
    credential = override.credential or rule.credential
    if credential not in policy.credentials:
        known = ", ".join(sorted(policy.credentials))
        message = f"context_extensions name credential {credential!r}; expected one of {known}"
        return Deny(DenyCode.BAD_OVERRIDE, message, destination.authority())
    if credential not in policy.static_credentials:
        audience = override.audience or rule.audience or DEFAULT_AUDIENCE
        return replace(rule, credential=credential, audience=audience)
    if override.audience:
        message = f"context_extensions give static credential {credential!r} an audience; drop it"
        return Deny(DenyCode.BAD_OVERRIDE, message, destination.authority())
    if matched is None or matched.credential != credential:
        message = (
            f"context_extensions give static credential {credential!r} to a destination that "
            "its own rule does not name; add a rule"
        )
        return Deny(DenyCode.BAD_OVERRIDE, message, destination.authority())
    return rule


def _inject(request: Request, destination: Destination, rule: Rule) -> Inject | Keep | Deny:
    header = rule.header or (
        # Cloud Run prefers X-Serverless-Authorization, so the app keeps its own header.
        Header.SERVERLESS if request.has_authorization else Header.AUTHORIZATION
    )
    # An inbound X-Serverless-Authorization carries no valid signature and would win over ours.
    remove = () if header is Header.SERVERLESS else (Header.SERVERLESS,)
    # Another Envoy sends the request where its own route says, under the name it came with.
    bare = request.listener is Listener.BARE
    authority = "" if bare else replace(destination, port=rule.port).authority(HTTPS_PORT)
    present = {
        Header.AUTHORIZATION: request.has_authorization,
        Header.PROXY: request.has_proxy_authorization,
    }
    if rule.keep_existing and present.get(header, False):
        return Keep(rule, destination, remove, authority)
    try:
        audience = audience_of(rule, destination, request.path)
    except BadDestinationError as error:
        return Deny(DenyCode.BAD_DESTINATION, error.message, destination.authority())
    return Inject(rule, destination, audience, header, remove, authority)


def _pass(request: Request, destination: Destination) -> Decision:
    if request.listener in (Listener.INTERCEPTED, Listener.REVERSE):
        # Its TLS was opened: sending it on in clear would betray the client. And the reverse proxy
        # has one upstream, which is never the host that the client names.
        return _denied(destination)
    return Pass(destination, "" if request.listener is Listener.BARE else request.authority)


def _tunnel(destination: Destination, rule: Rule | None, policy: Policy) -> Decision:
    if destination.port is None:
        message = "CONNECT needs a port: expected host:port, got only a host"
        return Deny(DenyCode.BAD_DESTINATION, message, destination.host)
    if rule is None:
        return Tunnel(destination, Via.TUNNEL, destination.authority())
    via = Via.INTERCEPT if policy.interception else Via.INSPECT
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
