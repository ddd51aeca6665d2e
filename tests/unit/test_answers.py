"""Answers in bytes: what Envoy reads in them, by the full API of envoy-data-plane."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz import answers
from ext_authz.clock import Now
from ext_authz.decisions import Deny, DenyCode, Inject, Pass, Tunnel, Via
from ext_authz.destination import Destination
from ext_authz.rules import Header, Rule
from ext_authz.tokens import Token
from tests.unit.envoy_api import HeaderValueOption, v3
from tests.unit.envoy_api import HeaderValueOptionHeaderAppendAction as Append

TOKEN = Token("head.claims.signature", 2e9, 1.9e9, Now(1.7e9, 0))
DESTINATION = Destination("svc.run.app")
INJECT = Inject(
    Rule("*.run.app", "default"),
    DESTINATION,
    "https://svc.run.app",
    Header.AUTHORIZATION,
    (Header.SERVERLESS,),
    "svc.run.app",
)


def read(answer: bytes) -> v3.CheckResponse:
    return v3.CheckResponse.parse(answer)


def headers_of(options: list[HeaderValueOption]) -> dict[str, str]:
    """Return the headers; every one must overwrite what the client sent."""
    assert {option.append_action for option in options} <= {Append.OVERWRITE_IF_EXISTS_OR_ADD}
    assert len({option.header.key for option in options}) == len(options)
    return {option.header.key: option.header.value for option in options}


def metadata_of(response: v3.CheckResponse) -> dict[str, str]:
    assert response.dynamic_metadata is not None
    fields = response.dynamic_metadata.fields
    return {name: str(value.string_value) for name, value in fields.items()}


def is_ok(response: v3.CheckResponse) -> bool:
    """Say what Envoy would: an absent status is OK, and so is code 0."""
    return response.status is None or response.status.code == 0


@pytest.mark.parametrize("header", Header)
def test_a_token_travels_in_its_header_over_tls(header: Header) -> None:
    decision = Inject(INJECT.rule, DESTINATION, INJECT.audience, header, (), "svc.run.app:8443")
    response = read(answers.inject(decision, TOKEN))
    assert is_ok(response)
    assert response.ok_response is not None
    assert headers_of(response.ok_response.headers) == {
        ":authority": "svc.run.app:8443",
        header.value: "Bearer head.claims.signature",
    }
    assert response.ok_response.headers_to_remove == []
    assert metadata_of(response)["route"] == "tls"
    assert TOKEN.text not in str(metadata_of(response))
    assert response.denied_response is None


def test_a_worker_that_may_repeat_the_answer_is_told_everything_that_it_needs() -> None:
    response = read(answers.inject(INJECT, TOKEN, 7))
    assert response.dynamic_metadata is not None
    assert response.dynamic_metadata.fields["cache_seconds"].number_value == 7
    found = metadata_of(response)
    assert found["token_id"] == TOKEN.fingerprint
    assert (found["authority"], found["header"]) == ("svc.run.app", "authorization")
    assert found["value"] == f"Bearer {TOKEN.text}"
    assert found["remove"] == "x-serverless-authorization"


def test_the_headers_to_remove_are_named() -> None:
    response = read(answers.inject(INJECT, TOKEN))
    assert response.ok_response is not None
    assert response.ok_response.headers_to_remove == ["x-serverless-authorization"]


def test_a_pass_sets_only_the_authority_and_goes_in_clear() -> None:
    response = read(answers.passed(Pass(DESTINATION, "Svc.Run.App:80")))
    assert is_ok(response)
    assert response.ok_response is not None
    assert headers_of(response.ok_response.headers) == {":authority": "Svc.Run.App:80"}
    assert response.ok_response.headers_to_remove == []
    assert metadata_of(response) == {"route": "plain"}


@pytest.mark.parametrize("via", [Via.TUNNEL, Via.INSPECT, Via.INTERCEPT])
def test_a_tunnel_says_where_its_bytes_go(via: Via) -> None:
    decision = Tunnel(Destination("2001:db8::1", 443, is_address=True), via, "[2001:db8::1]:443")
    response = read(answers.tunnel(decision))
    assert is_ok(response)
    assert metadata_of(response) == {
        "route": via.value,
        "tunnel_host": "2001:db8::1",
        "tunnel_port": "443",
    }
    assert response.ok_response is not None
    assert headers_of(response.ok_response.headers) == {":authority": "[2001:db8::1]:443"}


@pytest.mark.parametrize("code", DenyCode)
def test_a_refusal_is_json_with_its_status_word_and_destination(code: DenyCode) -> None:
    decision = Deny(code, 'do "this"\né', "svc.run.app")
    response = read(answers.deny(decision, is_grpc=False))
    assert not is_ok(response)
    assert response.ok_response is None
    denied = response.denied_response
    assert denied is not None
    assert denied.status is not None
    assert int(denied.status.code) == code.http_status
    assert headers_of(denied.headers) == {"content-type": "application/json"}
    assert json.loads(denied.body) == {
        "error": code.word,
        "message": 'do "this"\né',
        "destination": "svc.run.app",
    }
    assert response.dynamic_metadata is None or not response.dynamic_metadata.fields


def test_a_refusal_of_grpc_is_one_plain_sentence() -> None:
    decision = Deny(DenyCode.TOKEN_UNAVAILABLE, "try later", "svc.run.app", retry_after_seconds=7)
    denied = read(answers.deny(decision, is_grpc=True)).denied_response
    assert denied is not None
    assert denied.body == "token_unavailable: try later"
    assert headers_of(denied.headers) == {"retry-after": "7"}
    assert denied.status is not None
    assert int(denied.status.code) == 503


texts = st.text(alphabet="aZ0.:-/é\n\"'{}", min_size=1, max_size=20)
hosts = st.sampled_from(
    [Destination("a.b", 443), Destination("::1", 80, is_address=True), DESTINATION]
)
injects = st.builds(
    Inject,
    st.just(INJECT.rule),
    hosts,
    texts,
    st.sampled_from(Header),
    st.sampled_from([(), (Header.SERVERLESS,)]),
    texts,
)
passes = st.builds(Pass, hosts, texts)
tunnels = st.builds(Tunnel, hosts, st.sampled_from(Via), texts)
denies = st.builds(Deny, st.sampled_from(DenyCode), texts, texts, st.none() | st.integers(1, 60))


@given(passes | tunnels | denies, st.booleans())
def test_without_a_token_only_pass_and_tunnel_are_ok(
    decision: Pass | Tunnel | Deny, is_grpc: bool
) -> None:
    match decision:
        case Pass():
            answer = answers.passed(decision)
        case Tunnel():
            answer = answers.tunnel(decision)
        case Deny():
            answer = answers.deny(decision, is_grpc=is_grpc)
    response = read(answer)
    assert is_ok(response) == (not isinstance(decision, Deny))
    assert answer  # an empty answer would be OK to Envoy
    assert b"Bearer" not in answer


@given(injects)
def test_with_a_token_the_route_is_always_tls(decision: Inject) -> None:
    response = read(answers.inject(decision, TOKEN))
    assert metadata_of(response)["route"] == "tls"
    assert response.ok_response is not None
    headers = headers_of(response.ok_response.headers)
    assert headers[decision.header.value] == f"Bearer {TOKEN.text}"
    assert set(headers) == {":authority", decision.header.value}
