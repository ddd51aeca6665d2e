"""WebSocket with the real `websockets` library: through both ports and through CONNECT."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.messages import CapturedRequest, big_body
from tests.support.sidecar import Sidecar
from tests.support.tunnels import claims_of
from tests.support.world import CAPTURE, World

TIMEOUT_SECONDS = 20.0
LARGE = big_body(1_000_000)
MESSAGES = 200


@contextmanager
def opened(
    way: str, sidecar: Sidecar, authority: str, path: str = "/websocket"
) -> Iterator[ClientConnection]:
    """Open a WebSocket by one way; `connect` is what the library does with an HTTP proxy."""
    uri = f"ws://{authority}{path}"
    if way == "connect":
        with connect(uri, proxy=sidecar.proxy_url, open_timeout=TIMEOUT_SECONDS) as found:
            yield found
    elif way == "forward":
        plain = socket.create_connection(sidecar.forward, TIMEOUT_SECONDS)
        with plain, connect(uri, sock=plain, proxy=None, open_timeout=TIMEOUT_SECONDS) as found:
            yield found
    else:
        uri = f"ws://{sidecar.addresses['reverse']}{path}"
        with connect(uri, proxy=None, open_timeout=TIMEOUT_SECONDS) as found:
            yield found


@pytest.fixture(params=["forward", "reverse", "connect"])
def way(request: pytest.FixtureRequest) -> str:
    """Return each way in."""
    return str(request.param)


def handshake(world: World) -> CapturedRequest:
    """The upgrade as it arrived upstream."""
    return next(one for one in reversed(world.capture.requests) if one.path == "/websocket")


def test_messages_come_back(world: World, mirror: Sidecar, way: str) -> None:
    """Text, binary and large ones, each answered in its turn."""
    with opened(way, mirror, world.capture_authority) as websocket:
        for number in range(MESSAGES):
            websocket.send(f"message {number}")
            assert websocket.recv(TIMEOUT_SECONDS) == f"message {number}"
        for data in (b"\0\xff", LARGE):
            websocket.send(data)
            assert websocket.recv(TIMEOUT_SECONDS) == data


def test_upgrade_carries_its_token_over_http1(world: World, mirror: Sidecar, way: str) -> None:
    """Many HTTP/2 servers refuse WebSocket, so this one request never asks for HTTP/2."""
    with opened(way, mirror, world.capture_authority):
        pass
    received = handshake(world)
    assert claims_of(world, received)["aud"] == f"https://{CAPTURE}"
    assert (received.version, received.connection.alpn) == ("HTTP/1.1", "http/1.1")
    assert received.connection.sni == CAPTURE
    names = {name.lower() for name, _ in received.headers}
    assert {"upgrade", "connection", "sec-websocket-key"} <= names
    assert not [name for name in names if name.startswith(("x-envoy", "x-forwarded"))]


def test_pings_are_answered_from_upstream(world: World, mirror: Sidecar, way: str) -> None:
    """With their payload."""
    with opened(way, mirror, world.capture_authority) as websocket:
        assert websocket.ping(b"payload").wait(TIMEOUT_SECONDS)


def test_close_carries_code_and_reason(world: World, mirror: Sidecar, way: str) -> None:
    """Both directions."""
    with opened(way, mirror, world.capture_authority) as websocket:
        websocket.close(4001, "enough")
        with pytest.raises(ConnectionClosed) as ended:
            websocket.recv(TIMEOUT_SECONDS)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4001, "enough")


def test_refusal_of_upstream_reaches_the_client(world: World, mirror: Sidecar, way: str) -> None:
    """As the HTTP answer that it was."""
    with (
        pytest.raises(InvalidStatus) as refused,
        opened(way, mirror, world.capture_authority, "/unauthorized"),
    ):
        pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("entrance", ["forward", "connect"])
def test_websocket_without_a_token_is_refused(world: World, mirror: Sidecar, entrance: str) -> None:
    """503 before anything is upgraded."""
    target = world.cold()
    world.google.down()
    try:
        with pytest.raises(InvalidStatus) as refused, opened(entrance, mirror, target):
            pass
    finally:
        world.google.up()
    assert refused.value.response.status_code == 503
    assert b"token_unavailable" in (refused.value.response.body or b"")


def test_websocket_to_a_host_without_a_rule_passes(world: World, mirror: Sidecar, way: str) -> None:
    """In clear and without a token."""
    if way == "reverse":
        pytest.skip("the reverse proxy has one upstream, which has a rule")
    world.plain.clear()
    with opened(way, mirror, f"plain.localhost:{world.plain.port}") as websocket:
        websocket.send("hello")
        assert websocket.recv(TIMEOUT_SECONDS) == "hello"
    assert world.plain.requests[-1].values("authorization") == []
