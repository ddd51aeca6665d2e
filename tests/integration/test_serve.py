"""`serve` alone, asked by gRPC with Envoy's own full types, as a foreign Envoy would."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from ext_authz.tokens import unverified_claims
from tests.conftest import StartSidecar
from tests.support.polling import until
from tests.support.sidecar import Sidecar
from tests.support.world import SERVICE, World
from tests.unit.envoy_api import (
    Address,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    SocketAddress,
    v3,
)

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TIMEOUT_SECONDS = 10


@pytest.fixture
def serve(start_sidecar: StartSidecar) -> Sidecar:
    """Run the service alone."""
    return start_sidecar(command="serve")


@pytest.fixture
def channel(serve: Sidecar) -> Iterator[grpc.Channel]:
    """Return a channel to it."""
    with grpc.insecure_channel(serve.ext_authz) as found:
        yield found


def check_request(
    host: str, method: str = "GET", listener: str = "forward", **headers: str
) -> v3.CheckRequest:
    """What Envoy tells of a request."""
    http = v3.AttributeContextHttpRequest(
        id="1",
        method=method,
        host=host,
        path="/path?query",
        scheme="http",
        protocol="HTTP/1.1",
        size=-1,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    peer = SocketAddress(address="127.0.0.1", port_value=1)
    attributes = v3.AttributeContext(
        source=v3.AttributeContextPeer(address=Address(socket_address=peer)),
        request=v3.AttributeContextRequest(http=http),
        context_extensions={"listener": listener} if listener else {},
    )
    return v3.CheckRequest(attributes=attributes)


def check(channel: grpc.Channel, host: str, *facts: str, **headers: str) -> v3.CheckResponse:
    """Ask and read the answer with Envoy's whole schema."""
    return v3.AuthorizationSyncStub(channel).check(check_request(host, *facts, **headers))


def set_headers(answer: v3.CheckResponse) -> dict[str, str]:
    """The headers that an allowing answer sets."""
    assert answer.status is not None
    assert answer.status.code == 0
    assert answer.ok_response is not None
    return headers_of(answer.ok_response.headers)


def headers_of(options: list[HeaderValueOption]) -> dict[str, str]:
    """Name and value of each, which must replace what was there before."""
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(one.append_action == overwrite for one in options)
    return {one.header.key: one.header.value for one in options if one.header is not None}


def metadata_of(answer: v3.CheckResponse) -> dict[str, str]:
    """The words by which Envoy picks the route."""
    assert answer.dynamic_metadata is not None
    return dict(answer.dynamic_metadata.to_dict())


def test_allowing_answer_carries_the_token(world: World, channel: grpc.Channel) -> None:
    """Authority, token and route; the inbound X-Serverless-Authorization goes."""
    answer = check(channel, world.service_authority)
    headers = set_headers(answer)
    claims = unverified_claims(headers.pop("authorization").removeprefix("Bearer "))
    assert claims["aud"] == f"https://{SERVICE}"
    assert headers == {":authority": world.service_authority}
    assert list(answer.ok_response.headers_to_remove) == ["x-serverless-authorization"]
    assert metadata_of(answer)["route"] == "tls"
    assert "eyJ" not in str(metadata_of(answer))


def test_own_authorization_moves_the_token(world: World, channel: grpc.Channel) -> None:
    """The app's header is neither set nor removed."""
    answer = check(channel, world.service_authority, authorization="Basic x")
    assert set(set_headers(answer)) == {":authority", "x-serverless-authorization"}
    assert list(answer.ok_response.headers_to_remove) == []


def test_other_host_passes_without_a_token(channel: grpc.Channel) -> None:
    """The route is plain and nothing but the authority is set."""
    answer = check(channel, "other.example")
    assert set_headers(answer) == {":authority": "other.example"}
    assert metadata_of(answer) == {"route": "plain"}


def test_connect_to_other_hosts_is_a_tunnel(channel: grpc.Channel) -> None:
    """With the place where its bytes go."""
    answer = check(channel, "other.example:443", "CONNECT")
    place = {"tunnel_host": "other.example", "tunnel_port": "443"}
    assert metadata_of(answer) == {"route": "tunnel", **place}


@pytest.mark.parametrize(
    ("host", "listener", "status", "word"),
    [
        ("a..b", "forward", 400, "bad_destination"),
        ("", "forward", 400, "bad_destination"),
        ("169.254.169.254", "forward", 403, "destination_forbidden"),
        ("169.254.169.254", "no such listener", 500, "unknown_listener"),
        ("169.254.169.254", "", 403, "destination_forbidden"),
        ("svc.a.run.app", "reverse", 404, "no_upstream"),
    ],
)
def test_denying_answer_is_a_whole_http_answer(
    channel: grpc.Channel, host: str, listener: str, status: int, word: str
) -> None:
    """Never the empty answer, which would mean OK."""
    answer = check(channel, host, "GET", listener)
    assert answer.status.code != 0
    assert answer.denied_response.status.code == status
    assert json.loads(answer.denied_response.body)["error"] == word
    headers = headers_of(answer.denied_response.headers)
    assert headers == {"content-type": "application/json"}


def test_denying_answer_for_grpc_is_a_sentence(channel: grpc.Channel) -> None:
    """Envoy makes it the grpc-message."""
    answer = check(channel, "a..b", content_type="application/grpc+proto")
    assert answer.denied_response.body.startswith("bad_destination: ")
    assert not answer.denied_response.headers


def test_empty_request_is_denied(channel: grpc.Channel) -> None:
    """What tells nothing gets nothing."""
    answer = v3.AuthorizationSyncStub(channel).check(v3.CheckRequest())
    assert answer.status.code != 0
    assert answer.denied_response.status.code == 400


@pytest.mark.parametrize("name", ["", AUTHORIZATION])
def test_health_is_serving_once_ready(channel: grpc.Channel, name: str) -> None:
    """For the server as a whole and for the one service."""
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_SECONDS)
    assert answer.status == SERVING


def test_health_is_not_serving_while_draining(
    world: World, serve: Sidecar, channel: grpc.Channel
) -> None:
    """A watcher hears of it before the server goes; running Checks are answered."""
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
    assert next(watch).status == SERVING
    serve.process.send_signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    watch.cancel()
    assert serve.wait() == 0


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    """As grpcurl asks."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_SECONDS)
    names = {one.name for one in answer.list_services_response.service}
    assert {AUTHORIZATION, "grpc.health.v1.Health"} <= names


def test_reflection_describes_check(channel: grpc.Channel) -> None:
    """The descriptor of the service can be had by name."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=AUTHORIZATION)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_SECONDS)
    assert answer.file_descriptor_response.file_descriptor_proto


def test_cancelled_check_does_not_cancel_the_fetch(world: World, channel: grpc.Channel) -> None:
    """The next one finds the token; Google was asked once."""
    authority = world.cold()
    world.google.fail(IDENTITY, Fault.stall(0.5), times=1)
    call = channel.unary_unary(f"/{AUTHORIZATION}/Check", request_serializer=bytes)
    audience = f"https://{authority.partition(':')[0]}"

    def asked() -> int:
        requests = world.google.requests_of(IDENTITY)
        return sum(one.query.get("audience") == audience for one in requests)

    first = call.future(check_request(authority), timeout=TIMEOUT_SECONDS)
    until(lambda: asked() == 1, 5, "the fetch is running")
    first.cancel()
    assert "authorization" in set_headers(check(channel, authority))
    assert asked() == 1
