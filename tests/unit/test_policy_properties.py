"""What holds for every request and every set of rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decisions import Deny, Inject, Listener, Pass, Request, Tunnel
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
policies = st.builds(
    Policy,
    st.lists(rules, max_size=6).map(tuple),
    pass_others=st.booleans(),
    upstream=st.sampled_from([None, Destination("a.run.app"), Destination("evil.app", 8443)]),
    allow_loopback=st.booleans(),
)
requests = st.builds(Request, st.sampled_from(Listener), authorities, st.booleans(), st.booleans())


def really_matches(rule: Rule, host: str) -> bool:
    """Say it again, in the plainest way: label by label from the right."""
    pattern = rule.match.partition(":")[0].split(".")
    labels = host.split(".")
    if pattern[0] != "*":
        return labels == pattern
    return len(labels) >= len(pattern) and labels[-len(pattern) + 1 :] == pattern[1:]


@given(requests, policies)
def test_the_decision_never_raises_and_is_one_of_four(request: Request, policy: Policy) -> None:
    decision = decide(request, policy)
    assert isinstance(decision, Inject | Pass | Tunnel | Deny)
    assert decide(request, policy) == decision


@given(requests, policies)
def test_a_token_only_goes_to_a_host_that_its_own_rule_names(
    request: Request, policy: Policy
) -> None:
    decision = decide(request, policy)
    if not isinstance(decision, Inject):
        return
    sent_to = parse_authority(decision.authority)
    assert really_matches(decision.rule, sent_to.host)
    assert (sent_to.port or 443) == decision.rule.port
    if decision.rule.audience is None:
        assert decision.audience == ""
    if request.listener is Listener.REVERSE:
        assert policy.upstream is not None
        assert sent_to.host == policy.upstream.host
    else:
        assert sent_to.host == parse_authority(request.authority).host


@given(requests, policies)
def test_a_client_chooses_no_audience_beyond_its_host(request: Request, policy: Policy) -> None:
    decision = decide(request, policy)
    if isinstance(decision, Inject):
        assert decision.audience in ("", "fixed", f"https://{decision.destination.host}")


@given(requests, policies)
def test_an_inbound_serverless_header_never_survives_beside_our_token(
    request: Request, policy: Policy
) -> None:
    decision = decide(request, policy)
    if isinstance(decision, Inject):
        assert (decision.header is Header.SERVERLESS) != (Header.SERVERLESS in decision.remove)


@given(requests, policies)
def test_in_deny_mode_nothing_passes_without_a_rule(request: Request, policy: Policy) -> None:
    strict = Policy(policy.rules, pass_others=False, upstream=policy.upstream)
    decision = decide(request, strict)
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
    other = Policy(
        policy.rules[::-1],
        policy.pass_others,
        policy.upstream,
        policy.allow_loopback,
        policy.metadata_host,
    )
    one, two = decide(request, policy), decide(request, other)
    assert type(one) is type(two)
    assert one.destination == two.destination
