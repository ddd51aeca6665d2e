"""Our partial message declaration agrees with Envoy's full one, field by field."""

from __future__ import annotations

import datetime

from ext_authz.proto import external_auth_pb2 as pb
from tests.unit.envoy_api import (
    Address,
    HeaderValueOptionHeaderAppendAction,
    SocketAddress,
    v3,
)

HEADERS = {"authorization": "Bearer x", "content-type": "application/grpc"}
EXTENSIONS = {"listener": "forward", "other": "é"}


def full_request() -> v3.CheckRequest:
    """Return a request with far more in it than we declare."""
    peer = v3.AttributeContextPeer(
        address=Address(socket_address=SocketAddress(address="127.0.0.1", port_value=1)),
        service="s",
        labels={"a": "b"},
        principal="p",
    )
    http = v3.AttributeContextHttpRequest(
        id="1",
        method="CONNECT",
        headers=HEADERS,
        path="/p?q",
        host="svc.run.app:443",
        scheme="https",
        query="q",
        fragment="f",
        size=-1,
        protocol="HTTP/2",
        body="text",
        raw_body=b"\xff",
    )
    request = v3.AttributeContextRequest(
        time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), http=http
    )
    return v3.CheckRequest(
        attributes=v3.AttributeContext(
            source=peer,
            destination=peer,
            request=request,
            context_extensions=EXTENSIONS,
            tls_session=v3.AttributeContextTlsSession(sni="svc.run.app"),
        )
    )


def test_a_full_check_request_is_read_with_every_field_that_the_policy_needs() -> None:
    message = pb.CheckRequest.FromString(bytes(full_request()))
    http = message.attributes.request.http
    assert (http.method, http.path, http.host) == ("CONNECT", "/p?q", "svc.run.app:443")
    assert dict(http.headers) == HEADERS
    assert dict(message.attributes.context_extensions) == EXTENSIONS


def test_an_empty_check_request_is_read_as_nothing() -> None:
    message = pb.CheckRequest.FromString(b"")
    assert message.attributes.request.http.host == ""
    assert not message.attributes.context_extensions


def test_every_field_that_we_declare_has_envoys_number_and_name() -> None:
    theirs = {
        pb.CheckRequest: v3.CheckRequest,
        pb.AttributeContext: v3.AttributeContext,
        pb.AttributeContext.Request: v3.AttributeContextRequest,
        pb.AttributeContext.HttpRequest: v3.AttributeContextHttpRequest,
        pb.CheckResponse: v3.CheckResponse,
        pb.DeniedHttpResponse: v3.DeniedHttpResponse,
        pb.OkHttpResponse: v3.OkHttpResponse,
    }
    for ours, full in theirs.items():
        numbers = {
            field.name: field.metadata["betterproto"].number
            for field in full.__dataclass_fields__.values()
        }
        for field in ours.DESCRIPTOR.fields:
            assert numbers[field.name] == field.number, field.full_name


def test_the_append_actions_have_envoys_numbers() -> None:
    for name, number in pb.HeaderValueOption.HeaderAppendAction.items():
        assert HeaderValueOptionHeaderAppendAction[name] == number


def test_the_service_has_envoys_full_name() -> None:
    [service] = pb.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "envoy.service.auth.v3.Authorization"
    assert [method.name for method in service.methods] == ["Check"]
