"""Short names: which hosts stand for a service of this project, and for which URL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ext_authz.decisions import Deny, DenyCode, Discover, Inject, Listener, Pass, Request, Tunnel
from ext_authz.destination import Destination, parse_authority
from ext_authz.policy import Policy, decide
from ext_authz.rules import Rule
from ext_authz.short_names import Project, short_name

PROJECT = Project("123456", "europe-west1")
RUN_APP = Rule("*.run.app", "default")
SERVICES = {
    "backend": Destination("backend-9.us-east1.run.app"),
    "shop.default.svc.cluster.local": Destination("shop.example.com", 8443),
}
POLICY = Policy((RUN_APP,), services=SERVICES, discovery=True, project=PROJECT)


def decided(authority: str, policy: Policy = POLICY, **more: Any) -> Any:
    return decide(Request(Listener.FORWARD, authority, **more), policy)


@pytest.mark.parametrize(
    ("authority", "upstream"),
    [
        ("web", "web-123456.europe-west1.run.app"),
        ("WEB.", "web-123456.europe-west1.run.app"),
        ("web:80", "web-123456.europe-west1.run.app"),
        ("web:443", "web-123456.europe-west1.run.app"),
        ("web.us-central1", "web-123456.us-central1.run.app"),
        ("web.northamerica-northeast2", "web-123456.northamerica-northeast2.run.app"),
        ("web.default.svc.cluster.local", "web-123456.europe-west1.run.app"),
        ("web.shop.svc.cluster.local:8080", "web-123456.europe-west1.run.app"),
        ("backend", "backend-9.us-east1.run.app"),
        ("BackEnd:8080", "backend-9.us-east1.run.app"),
    ],
)
def test_a_short_name_stands_for_the_url_of_its_service(authority: str, upstream: str) -> None:
    decision = decided(authority)
    assert isinstance(decision, Inject)
    assert decision.authority == upstream
    assert decision.audience == f"https://{upstream}"
    assert decision.rule is RUN_APP


def test_a_named_service_may_have_a_port_and_wins_over_the_cluster_name() -> None:
    policy = replace(POLICY, rules=(*POLICY.rules, Rule("shop.example.com:8443", "robot")))
    decision = decided("shop.default.svc.cluster.local", policy)
    assert (decision.authority, decision.rule.credential) == ("shop.example.com:8443", "robot")


@pytest.mark.parametrize(
    "authority",
    [
        "web:8080",
        "web.example",
        "web.europe",
        "web.a.us-central1",
        "svc.cluster.local",
        "web.svc.cluster.local",
        "a.b.c.svc.cluster.local",
        "web_1",
        "1web",
        "10.0.0.7",
        "[fd00::1]",
    ],
)
def test_any_other_host_is_taken_as_it_is(authority: str) -> None:
    assert short_name(parse_authority(authority)) is None
    decision = decided(authority)
    assert isinstance(decision, Pass)
    assert decision.authority == authority


@pytest.mark.parametrize("authority", ["web", "web.us-central1", "web.default.svc.cluster.local"])
def test_without_discovery_a_short_name_is_a_host_like_any_other(authority: str) -> None:
    assert isinstance(decided(authority, replace(POLICY, discovery=False)), Pass)


def test_services_are_known_without_discovery() -> None:
    policy = replace(POLICY, discovery=False, project=None)
    assert decided("backend", policy).authority == "backend-9.us-east1.run.app"


def test_the_project_is_looked_up_before_a_short_name_is_judged() -> None:
    policy = replace(POLICY, project=None)
    assert isinstance(decided("web", policy), Discover)
    assert isinstance(decided("web:443", policy, is_connect=True), Discover)
    assert isinstance(decided("example.com", policy), Pass)


def test_a_rule_for_a_short_name_wins_over_discovery() -> None:
    policy = replace(POLICY, rules=(Rule("web", "inside"),))
    assert decided("web", policy).authority == "web"


def test_a_short_name_gets_its_token_without_any_rule_also_in_deny_mode() -> None:
    decision = decided("web", replace(POLICY, rules=(), pass_others=False))
    assert isinstance(decision, Inject)
    assert decision.rule.credential == "default"


@pytest.mark.parametrize("length", [56, 57])
def test_a_label_that_would_be_too_long_says_why_there_is_no_such_url(length: int) -> None:
    decision = decided("a" * length)  # and a hyphen, and six digits: 63 characters fit
    if length == 56:
        assert isinstance(decision, Inject)
        return
    assert isinstance(decision, Deny)
    assert decision.code is DenyCode.BAD_DESTINATION
    for part in ("no deterministic URL", "at most 63", "got 64", "services"):
        assert part in decision.message


@pytest.mark.parametrize("authority", ["metadata", "metadata:80", "localhost"])
def test_a_forbidden_name_is_no_short_name(authority: str) -> None:
    decision = decided(authority)
    assert isinstance(decision, Deny)
    assert decision.code is DenyCode.DESTINATION_FORBIDDEN


def test_localhost_is_no_service_where_loopback_is_allowed() -> None:
    assert isinstance(decided("localhost", replace(POLICY, allow_loopback=True)), Pass)


def test_a_service_cannot_lead_to_a_forbidden_destination() -> None:
    services = {"backend": Destination("169.254.169.254", is_address=True)}
    decision = decided("backend", replace(POLICY, services=services))
    assert isinstance(decision, Deny)
    assert decision.code is DenyCode.DESTINATION_FORBIDDEN


def test_a_connect_to_a_short_name_leads_to_the_services_url() -> None:
    for name, host in (("web", "web-123456.europe-west1"), ("backend", "backend-9.us-east1")):
        decision = decided(f"{name}:443", is_connect=True)
        assert isinstance(decision, Tunnel)
        assert decision.rule is RUN_APP
        assert decision.destination.authority() == f"{host}.run.app:443"


@pytest.mark.parametrize("authority", ["web", "web.us-central1", "web.default.svc.cluster.local"])
def test_a_foreign_envoys_short_names_are_its_own(authority: str) -> None:
    """The request goes where its own route leads: a token of ours does not belong there."""
    for project in (PROJECT, None):
        request = Request(Listener.BARE, authority)
        assert isinstance(decide(request, replace(POLICY, project=project)), Pass)
    assert isinstance(decide(Request(Listener.BARE, "svc.run.app"), POLICY), Inject)
