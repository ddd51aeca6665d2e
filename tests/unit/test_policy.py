"""The decision: who gets a token, in which header, and who is let through or refused."""

from __future__ import annotations

import pytest

from ext_authz.decisions import Deny, DenyCode, Inject, Listener, Pass, Request, Tunnel, Via
from ext_authz.destination import Destination
from ext_authz.errors import BadDestinationError
from ext_authz.policy import Policy, decide
from ext_authz.rules import Header, Rule, audience_of, without_traffic_tag

RUN_APP = Rule("*.run.app", "default")
RULES = (
    RUN_APP,
    Rule("*.a.run.app", "europe"),
    Rule("athens-abc.a.run.app", "athens", audience=None),
    Rule("svc.run.app:8443", "alternative"),
    Rule("api.example.com", "default", audience="my-audience", header=Header.PROXY),
    Rule("10.0.0.7", "inside"),
)
POLICY = Policy(RULES)
STRICT = Policy(RULES, pass_others=False)


def forward(authority: str, *, has_authorization: bool = False) -> Request:
    return Request(Listener.FORWARD, authority, has_authorization=has_authorization)


def injected(authority: str, policy: Policy = POLICY, *, own: bool = False) -> Inject:
    decision = decide(forward(authority, has_authorization=own), policy)
    assert isinstance(decision, Inject)
    return decision


def denied(request: Request, policy: Policy = POLICY) -> Deny:
    decision = decide(request, policy)
    assert isinstance(decision, Deny)
    return decision


@pytest.mark.parametrize(
    ("authority", "credential", "audience", "sent_to"),
    [
        ("svc.run.app", "default", "https://svc.run.app", "svc.run.app"),
        ("SVC.Run.App.", "default", "https://svc.run.app", "svc.run.app"),
        ("svc.run.app:80", "default", "https://svc.run.app", "svc.run.app"),
        ("svc.run.app:443", "default", "https://svc.run.app", "svc.run.app"),
        ("svc.run.app:8443", "alternative", "https://svc.run.app", "svc.run.app:8443"),
        ("a.b.run.app", "default", "https://a.b.run.app", "a.b.run.app"),
        ("x.a.run.app", "europe", "https://x.a.run.app", "x.a.run.app"),
        ("x.y.a.run.app", "europe", "https://x.y.a.run.app", "x.y.a.run.app"),
        ("athens-abc.a.run.app", "athens", "", "athens-abc.a.run.app"),
        ("api.example.com", "default", "my-audience", "api.example.com"),
        ("10.0.0.7", "inside", "https://10.0.0.7", "10.0.0.7"),
        ("tag---svc.run.app", "default", "https://svc.run.app", "tag---svc.run.app"),
    ],
)
def test_the_most_specific_rule_gives_credential_and_audience(
    authority: str, credential: str, audience: str, sent_to: str
) -> None:
    decision = injected(authority)
    assert decision.rule.credential == credential
    assert decision.audience == audience
    assert decision.authority == sent_to


@pytest.mark.parametrize(
    "authority",
    [
        "run.app",
        "evilrun.app",
        "evil-run.app",
        "run.app.evil.com",
        "svc.run.app.evil.com",
        "svc.run.apps",
        "svc.run.app:8080",
        "x.a.run.app:8443",
        "sub.api.example.com",
        "10.0.0.8",
        "example.com",
    ],
)
def test_what_no_rule_names_passes_without_a_token_or_is_denied(authority: str) -> None:
    passed = decide(forward(authority), POLICY)
    assert isinstance(passed, Pass)
    assert passed.authority == authority
    decision = denied(forward(authority), STRICT)
    assert decision.code is DenyCode.DESTINATION_DENIED
    assert decision.code.http_status == 403
    assert decision.destination in authority


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_rules_does_not_matter(order: int) -> None:
    policy = Policy(RULES[::order])
    assert injected("x.a.run.app", policy).rule.credential == "europe"
    assert injected("athens-abc.a.run.app", policy).rule.credential == "athens"


def test_every_matching_rule_is_listed_the_winner_first() -> None:
    found = POLICY.matching(Destination("athens-abc.a.run.app"))
    assert [rule.match for rule in found] == ["athens-abc.a.run.app", "*.a.run.app", "*.run.app"]


def test_no_suffix_matches_an_address() -> None:
    policy = Policy((Rule("*.0.0.x", "default"), RUN_APP))
    assert policy.matching(Destination("10.0.0.7", is_address=True)) == []


@pytest.mark.parametrize("match", ["*", "*.", "*.*.app", "*.10.0.0.1", "a..b", "h:0", "*x.app", ""])
def test_a_rule_needs_a_host_or_a_suffix_of_whole_labels(match: str) -> None:
    with pytest.raises(BadDestinationError):
        Rule(match, "default")


def test_the_token_goes_beside_the_apps_own_authorization() -> None:
    plain = injected("svc.run.app")
    assert (plain.header, plain.remove) == (Header.AUTHORIZATION, (Header.SERVERLESS,))
    own = injected("svc.run.app", own=True)
    assert (own.header, own.remove) == (Header.SERVERLESS, ())


@pytest.mark.parametrize("header", Header)
@pytest.mark.parametrize("own", [False, True])
def test_a_header_named_by_the_rule_is_used_whatever_the_app_sent(
    header: Header, own: bool
) -> None:
    decision = injected("h.test", Policy((Rule("h.test", "c", header=header),)), own=own)
    assert decision.header is header
    # What the client sent there would win over ours: it is removed unless we overwrite it.
    assert (Header.SERVERLESS in decision.remove) == (header is not Header.SERVERLESS)


def test_a_static_token_has_no_audience() -> None:
    assert audience_of(Rule("h.test", "c", audience=None), Destination("h.test")) == ""


@pytest.mark.parametrize(
    ("host", "without"),
    [
        ("tag---svc.run.app", "svc.run.app"),
        ("svc.run.app", "svc.run.app"),
        ("a---b---c.run.app", "b---c.run.app"),
        ("xn---svc-qxa.run.app", "xn---svc-qxa.run.app"),
        ("svc.a---b.app", "svc.a---b.app"),
        ("a--b.run.app", "a--b.run.app"),
    ],
)
def test_a_traffic_tag_is_no_part_of_the_audience(host: str, without: str) -> None:
    assert without_traffic_tag(host) == without


@pytest.mark.parametrize(
    ("authority", "via"), [("svc.run.app:443", Via.INSPECT), ("example.com:443", Via.TUNNEL)]
)
def test_a_connect_is_looked_into_only_where_a_rule_matches(authority: str, via: Via) -> None:
    decision = decide(Request(Listener.FORWARD, authority, is_connect=True), POLICY)
    assert isinstance(decision, Tunnel)
    assert decision.via is via
    assert (decision.rule is not None) == (via is Via.INSPECT)
    assert decision.destination.authority() == authority


@pytest.mark.parametrize(
    ("authority", "code"),
    [
        ("svc.run.app", DenyCode.BAD_DESTINATION),
        ("user@svc.run.app:443", DenyCode.BAD_DESTINATION),
        ("169.254.169.254:80", DenyCode.DESTINATION_FORBIDDEN),
        ("localhost:443", DenyCode.DESTINATION_FORBIDDEN),
    ],
)
def test_a_connect_that_cannot_be_judged_is_refused(authority: str, code: DenyCode) -> None:
    assert denied(Request(Listener.FORWARD, authority, is_connect=True)).code is code


def test_a_connect_to_a_host_without_a_rule_is_denied_in_deny_mode() -> None:
    request = Request(Listener.FORWARD, "example.com:443", is_connect=True)
    assert denied(request, STRICT).code is DenyCode.DESTINATION_DENIED


def test_cleartext_inside_a_connect_gets_its_token() -> None:
    assert isinstance(decide(Request(Listener.TUNNEL, "svc.run.app:443"), POLICY), Inject)


def test_what_was_opened_is_never_sent_on_in_clear() -> None:
    assert isinstance(decide(Request(Listener.INTERCEPTED, "svc.run.app"), POLICY), Inject)
    assert isinstance(decide(Request(Listener.INTERCEPTED, "example.com"), POLICY), Deny)


def test_the_reverse_proxy_goes_to_its_upstream_whatever_the_host_header_says() -> None:
    policy = Policy(RULES, upstream=Destination("svc.run.app"))
    for authority in ("localhost:9090", "evil.example", "a b", ""):
        decision = decide(Request(Listener.REVERSE, authority), policy)
        assert isinstance(decision, Inject)
        assert decision.authority == "svc.run.app"


def test_the_reverse_proxy_without_an_upstream_says_how_to_set_one() -> None:
    decision = denied(Request(Listener.REVERSE, "localhost:9090"))
    assert decision.code is DenyCode.NO_UPSTREAM
    assert "UPSTREAM_URL" in decision.message


@pytest.mark.parametrize("upstream", [Destination("x.test"), Destination("x.test", 80)])
def test_the_reverse_proxy_never_follows_the_clients_host(upstream: Destination) -> None:
    decision = decide(Request(Listener.REVERSE, "evil.example"), Policy((), upstream=upstream))
    assert isinstance(decision, Deny)


@pytest.mark.parametrize("authority", ["metadata.google.internal", "127.0.0.1:8000", "[fe80::1]"])
def test_forbidden_destinations_are_named_with_what_to_do(authority: str) -> None:
    decision = denied(forward(authority))
    assert decision.code is DenyCode.DESTINATION_FORBIDDEN
    assert "NO_PROXY" in decision.message
    assert decision.destination == authority


def test_a_rule_does_not_open_a_forbidden_destination() -> None:
    policy = Policy((Rule("169.254.169.254", "default"), Rule("localhost", "default")))
    for authority in ("169.254.169.254", "localhost"):
        assert denied(forward(authority), policy).code is DenyCode.DESTINATION_FORBIDDEN
    opened = Policy(policy.rules, allow_loopback=True)
    assert isinstance(decide(forward("localhost"), opened), Inject)
    assert isinstance(decide(forward("169.254.169.254"), opened), Deny)


def test_a_destination_that_cannot_be_read_is_quoted_only_in_part() -> None:
    decision = denied(forward("x" * 10_000))
    assert decision.code is DenyCode.BAD_DESTINATION
    assert len(decision.destination) <= 80
    assert len(decision.message) < 500


def test_an_envoy_that_is_not_ours_keeps_the_authority_that_its_own_routes_go_by() -> None:
    passed = decide(Request(Listener.BARE, "example.com"), POLICY)
    assert isinstance(passed, Pass)
    injection = decide(Request(Listener.BARE, "Svc.Run.App"), POLICY)
    assert isinstance(injection, Inject)
    assert injection.audience == "https://svc.run.app"
    assert (passed.authority, injection.authority) == ("", "")


@pytest.mark.parametrize("authority", ["svc.run.app", "example.com", "127.0.0.1"])
def test_a_listener_that_this_version_does_not_know_gets_nothing(authority: str) -> None:
    for is_connect in (False, True):
        decision = denied(Request(Listener.UNKNOWN, authority, is_connect=is_connect))
        assert decision.code.http_status >= 500
