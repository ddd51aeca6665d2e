"""The gRPC look-alike: every kind of call, the caller's e-mail, refusals as Cloud Run's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ext_authz.standins.certificates import Authority, LeafCertificate
from ext_authz.standins.grpc_service import GrpcService
from ext_authz.standins.issuer import Issuer
from tests.unit.standins.conftest import AUDIENCE, HOST

SENDER = "sender@local-project.iam.gserviceaccount.com"


@pytest.fixture
def service(issuer: Issuer, leaf: LeafCertificate) -> Iterator[GrpcService]:
    """Serve with one invoker."""
    with GrpcService(issuer, [AUDIENCE], leaf, invokers={SENDER}) as running:
        yield running


@pytest.fixture
def channel(service: GrpcService, authority: Authority) -> Iterator[Any]:
    """Connect with TLS, verifying the receiver's name."""
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", HOST), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(service.target, credentials, options=options) as opened:
        yield opened


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return call metadata with a token and something to echo."""
    return (("authorization", f"Bearer {token}"), ("x-echo-a", "1"), ("x-count", "2"))


def test_every_kind_of_call_is_echoed(channel: Any, service: GrpcService, issuer: Issuer) -> None:
    """Unary, server, client and bidirectional streams, on raw bytes."""
    sent = {"metadata": metadata(issuer.mint(AUDIENCE, SENDER)), "timeout": 5}
    answer, call = channel.unary_unary("/idtoken.Echo/Unary").with_call(b"a", **sent)
    assert answer == b"a"
    assert ("x-echo-a", "1") in [tuple(pair) for pair in call.initial_metadata()]
    assert ("caller-email", SENDER) in [tuple(pair) for pair in call.trailing_metadata()]
    assert list(channel.unary_stream("/idtoken.Echo/ServerStream")(b"b", **sent)) == [b"b", b"b"]
    joined = channel.stream_unary("/idtoken.Echo/ClientStream")(iter((b"c", b"d")), **sent)
    assert joined == b"cd"
    both = channel.stream_stream("/idtoken.Echo/Bidi")(iter((b"e", b"f")), **sent)
    assert list(both) == [b"e", b"f"]
    assert ("caller-email", SENDER) in [tuple(pair) for pair in both.trailing_metadata()]
    assert [call.refusal for call in service.calls] == [None] * 4


def test_refusals_have_grpc_codes(channel: Any, service: GrpcService, issuer: Issuer) -> None:
    """403 is PERMISSION_DENIED, 401 is UNAUTHENTICATED, for unary and streaming calls."""
    unary = channel.unary_unary("/idtoken.Echo/Unary")
    bidi = channel.stream_stream("/idtoken.Echo/Bidi")
    other = issuer.mint("https://other.example", SENDER)
    stranger = issuer.mint(AUDIENCE, "stranger@x.example")
    for pairs, code in (
        ((), grpc.StatusCode.PERMISSION_DENIED),
        (metadata(stranger), grpc.StatusCode.PERMISSION_DENIED),
        (metadata(other), grpc.StatusCode.UNAUTHENTICATED),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            unary(b"a", metadata=pairs, timeout=5)
        assert caught.value.code() is code
        with pytest.raises(grpc.RpcError) as caught:
            list(bidi(iter((b"a",)), metadata=pairs, timeout=5))
        assert caught.value.code() is code
    reasons = [call.refusal for call in service.calls][::2]
    assert reasons == ["no_token", "not_an_invoker", "wrong_audience"]
    assert other not in repr(service.calls)
