"""Rules: the audience of a function's path, traffic tags, an existing header kept or replaced."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from ext_authz.decisions import Deny, DenyCode, Inject, Keep, Listener, Request
from ext_authz.destination import Destination
from ext_authz.policy import Policy, decide
from ext_authz.rules import Header, Rule, audience_of

FUNCTION = Rule("r-p.cloudfunctions.net", "default", audience="https://{host}{path}")
POLICY = Policy((FUNCTION, Rule("*.run.app", "default")))


def decided(policy: Policy, authority: str, **more: Any) -> Any:
    return decide(Request(Listener.FORWARD, authority, **more), policy)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/hello", "/hello"),
        ("/hello/", "/hello"),
        ("/hello/a/b?c=/d", "/hello"),
        ("/hello?x", "/hello"),
        ("/Hello_World-2", "/Hello_World-2"),
        ("/" + "f" * 63, "/" + "f" * 63),
    ],
)
def test_the_function_is_the_first_segment_of_the_path(path: str, name: str) -> None:
    decision = decided(POLICY, "r-p.cloudfunctions.net", path=path)
    assert isinstance(decision, Inject)
    assert decision.audience == f"https://r-p.cloudfunctions.net{name}"
    assert decision.depends_on_path


@pytest.mark.parametrize(
    "path",
    ["", "/", "//hello", "/?q", "/a.b", "/%68ello", "/he llo", "/../x", "/é", "*", f"/{64 * 'f'}"],
)
def test_a_path_that_names_no_function_gets_no_token(path: str) -> None:
    decision = decided(POLICY, "r-p.cloudfunctions.net", path=path)
    assert isinstance(decision, Deny)
    assert decision.code is DenyCode.BAD_DESTINATION
    assert "/NAME of 1 to 63 letters" in decision.message


def test_the_path_matters_only_where_a_rule_says_so() -> None:
    assert POLICY.needs_path
    assert not Policy(POLICY.rules[1:]).needs_path
    decision = decided(POLICY, "svc.run.app", path="/anything at all")
    assert decision.audience == "https://svc.run.app"
    assert not decision.depends_on_path


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("green---svc-1.europe-west1.run.app", "https://svc-1.europe-west1.run.app"),
        ("svc-1.europe-west1.run.app", "https://svc-1.europe-west1.run.app"),
        ("xn---abc.run.app", "https://xn---abc.run.app"),
    ],
)
def test_a_tagged_revision_has_its_services_audience(host: str, audience: str) -> None:
    assert audience_of(Rule("*.run.app", "default"), Destination(host)) == audience
    custom = Rule("*.run.app", "default", audience="{host}/{host}")
    bare = audience.removeprefix("https://")
    assert audience_of(custom, Destination(host)) == f"{bare}/{bare}"


SENT = {"authorization": "has_authorization", "proxy-authorization": "has_proxy_authorization"}


@pytest.mark.parametrize("header", [Header.AUTHORIZATION, Header.PROXY])
def test_keep_lets_the_apps_own_header_stay_and_sends_no_token(header: Header) -> None:
    policy = Policy((Rule("h.test", "c", header=header, keep_existing=True),))
    kept = decided(policy, "h.test", **{SENT[header]: True})
    assert isinstance(kept, Keep)
    assert kept.remove == (Header.SERVERLESS,)
    assert kept.authority == "h.test"
    assert isinstance(decided(policy, "h.test"), Inject)
    other = next(name for name in SENT if name != header)
    assert isinstance(decided(policy, "h.test", **{SENT[other]: True}), Inject)


@pytest.mark.parametrize("header", [Header.AUTHORIZATION, Header.PROXY])
def test_replace_is_what_a_rule_does_that_says_nothing(header: Header) -> None:
    policy = Policy((Rule("h.test", "c", header=header),))
    decision = decided(policy, "h.test", **{SENT[header]: True})
    assert isinstance(decision, Inject)
    assert decision.header is header


def test_no_rule_lets_an_inbound_serverless_header_through() -> None:
    for header in (None, *Header):
        for keep in (False, True):
            policy = Policy((Rule("h.test", "c", header=header, keep_existing=keep),))
            for sent in ({}, dict.fromkeys(SENT.values(), True)):
                decision = decided(policy, "h.test", **sent)
                overwritten = getattr(decision, "header", None) is Header.SERVERLESS
                assert overwritten or Header.SERVERLESS in decision.remove


def test_a_lookup_among_a_thousand_rules_costs_what_it_costs_among_ten() -> None:
    def policy(count: int) -> Policy:
        exact = [Rule(f"svc{n}.example.com", "default") for n in range(count)]
        return Policy((*exact, *(Rule(f"*.s{n}.run.app", "default") for n in range(count))))

    few, many = policy(5), policy(500)
    hosts = ["svc3.example.com", "a.b.s4.run.app", "none.example.org"]
    requests = [Request(Listener.FORWARD, host) for host in hosts]
    assert [type(decide(one, few)) for one in requests] == [
        type(decide(one, many)) for one in requests
    ]

    def microseconds(rules: Policy) -> float:
        started = time.perf_counter()
        for _ in range(100):
            for request in requests:
                decide(request, rules)
        return (time.perf_counter() - started) / 300 * 1e6

    # The shortest of several, in turns: what other processes take of the machine only ever adds.
    pairs = [(microseconds(few), microseconds(many)) for _ in range(7)]
    short, long = (min(column) for column in zip(*pairs, strict=True))
    print(f"\none decision: {short:.1f} us with 10 rules, {long:.1f} us with 1,000")
    assert long < 3 * short


def test_a_rule_is_shown_without_anything_but_its_own_words() -> None:
    assert re.match(r"Rule\(match='r-p\.cloudfunctions\.net', credential='default'", repr(FUNCTION))
