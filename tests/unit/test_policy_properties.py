"""What holds for every request and every set of rules."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decisions import (
    Decision,
    Discover,
    Inject,
    Keep,
    Listener,
    Override,
    Pass,
    Request,
    Tunnel,
)
from ext_authz.destination import Destination, parse_authority
from ext_authz.policy import Policy, decide
from ext_authz.rules import Header, Rule

LABELS = ["a", "b", "run", "app", "evil"]
names = st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join)
hosts = names | st.sampled_from(["10.0.0.1", "[2001:db8::1]", "localhost", "metadata"])
ports = st.sampled_from(["", ":80", ":443", ":8443"])
rule_ports = st.sampled_from(["", ":443", ":8443"])
dots = st.sampled_from(["", "."])
odd = st.text(alphabet="aA.:@,/%[]*- \r\n\x00é0123456789", max_size=30)
authorities = st.tuples(hosts | names.map(str.upper), dots, ports).map("".join) | odd
matches = st.tuples(st.sampled_from(["", "*."]), names, rule_ports).map("".join)
rules = st.builds(
    Rule,
    matches,
    st.sampled_from(["default", "robot"]),
    audience=st.sampled_from(["https://{host}", "fixed", None]),
    header=st.sampled_from([None, *Header]),
)
upstreams = [Destination("a.run.app"), Destination("evil.app", 8443), Destination("b", 80)]
policies = st.builds(
    Policy,
    st.lists(rules, max_size=6).map(tuple),
    pass_others=st.booleans(),
    upstream=st.sampled_from([None, *upstreams]),
    allow_loopback=st.booleans(),
    services=st.dictionaries(st.sampled_from(LABELS), st.sampled_from(upstreams), max_size=2),
    discovery=st.booleans(),
    credentials=st.just(frozenset({"default", "robot"})),
    static_credentials=st.sampled_from([frozenset(), frozenset({"robot"})]),
    interception=st.booleans(),
)
requests = st.builds(
    Request, st.sampled_from(Listener), authorities, st.booleans(), st.booleans(), st.booleans()
)
overrides = st.builds(
    Override,
    st.just("") | authorities,
    st.sampled_from(["", "other"]),
    st.sampled_from(["", "robot", "nobody"]),
)


def sent_to(decision: Inject | Keep, request: Request) -> Destination:
    """Return where Envoy sends it: an Envoy that is not ours keeps the authority it got."""
    if request.listener is Listener.BARE:
        assert decision.authority == ""
        return parse_authority(request.authority)
    return parse_authority(decision.authority)


def really_matches(rule: Rule, host: str) -> bool:
    """Say it again, in the plainest way: label by label from the right."""
    pattern = rule.match.partition(":")[0].split(".")
    labels = host.split(".")
    if pattern[0] != "*":
        return labels == pattern
    return len(labels) >= len(pattern) and labels[-len(pattern) + 1 :] == pattern[1:]


@given(requests, overrides, policies)
def test_the_decision_never_raises_and_is_one_of_six(
    request: Request, override: Override, policy: Policy
) -> None:
    for one in (request, replace(request, override=override)):
        decision = decide(one, policy)
        assert isinstance(decision, Decision)
        assert decide(one, policy) == decision
        assert not isinstance(decision, Discover) or policy.discovery


@given(requests, policies)
def test_a_token_only_goes_to_a_host_that_its_own_rule_names(
    request: Request, policy: Policy
) -> None:
    decision = decide(request, policy)
    if not isinstance(decision, Inject | Keep):
        return
    target = sent_to(decision, request)
    if request.listener is not Listener.BARE:
        assert (target.port or 443) == decision.rule.port
    host = parse_authority(request.authority).host if request.authority else ""
    if request.listener is Listener.REVERSE:
        assert policy.upstream is not None
        host = policy.upstream.host
    host = policy.services[host].host if host in policy.services else host
    assert decision.destination.host == host
    assert really_matches(decision.rule, host)


@given(requests, policies)
def test_a_client_chooses_no_audience_beyond_its_host(request: Request, policy: Policy) -> None:
    decision = decide(request, policy)
    if isinstance(decision, Inject):
        assert decision.audience in ("", "fixed", f"https://{decision.destination.host}")
        assert (decision.audience == "") == (decision.rule.audience is None)


@given(requests, overrides, policies)
def test_no_override_gives_a_static_credential_an_audience_or_invents_a_credential(
    request: Request, override: Override, policy: Policy
) -> None:
    decision = decide(replace(request, override=override), policy)
    if isinstance(decision, Inject) and (override.credential or override.audience):
        assert decision.rule.credential in policy.credentials
        static = decision.rule.credential in policy.static_credentials
        assert not static or decision.audience == ""


@given(requests, policies)
def test_an_inbound_serverless_header_never_survives_beside_our_token(
    request: Request, policy: Policy
) -> None:
    decision = decide(request, policy)
    if isinstance(decision, Inject):
        assert (decision.header is Header.SERVERLESS) != (Header.SERVERLESS in decision.remove)


@given(requests, policies)
def test_in_deny_mode_nothing_passes_without_a_rule(request: Request, policy: Policy) -> None:
    decision = decide(request, replace(policy, pass_others=False))
    assert not isinstance(decision, Pass)
    assert not isinstance(decision, Tunnel) or decision.rule is not None


@given(requests, policies)
def test_what_was_opened_or_reversed_never_leaves_in_clear(
    request: Request, policy: Policy
) -> None:
    if request.listener in (Listener.INTERCEPTED, Listener.REVERSE):
        assert not isinstance(decide(request, policy), Pass)


@given(requests, policies)
def test_the_rule_order_changes_no_host_of_a_decision(request: Request, policy: Policy) -> None:
    other = replace(policy, rules=policy.rules[::-1])
    one, two = decide(request, policy), decide(request, other)
    assert type(one) is type(two)
    if not isinstance(one, Discover) and not isinstance(two, Discover):
        assert one.destination == two.destination
