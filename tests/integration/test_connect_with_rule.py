"""CONNECT to a host with a rule: TLS stays end to end, cleartext inside gets its token."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import request_bytes, verdict
from tests.support.polling import until
from tests.support.raw_h2 import request_headers
from tests.support.sidecar import Sidecar
from tests.support.tcp import TcpServer
from tests.support.tunnels import TunnelledH2, claims_of, open_tunnel
from tests.support.world import CAPTURE, World, server_tls

RULED = "ruled.localhost"
END_SECONDS = 8.0
TLS_HINT = "inside TLS no token can be added"


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[TcpServer]:
    """Serve bytes over TLS with a certificate of its own."""
    leaf = world.authority.issue(RULED, file_name="tunnelled")
    with TcpServer(tls=server_tls(leaf, "http/1.1")) as found:
        yield found


@pytest.fixture(scope="module")
def through(
    world: World, server: TcpServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """Run a sidecar with a rule for the server."""
    rules = [*world.rules(), f'{{match: "{RULED}:{server.port}"}}']
    directory = tmp_path_factory.mktemp("ruled")
    with world.sidecar(directory, config=world.config(rules=rules)) as found:
        yield found


def test_tls_to_a_host_with_a_rule_stays_end_to_end(
    world: World, start_sidecar: StartSidecar, server: TcpServer
) -> None:
    """The client verifies the upstream's own certificate; the log says once what to do."""
    own = start_sidecar(config=world.config(rules=[f'{{match: "{RULED}:{server.port}"}}']))
    own_certificate = (world.authority.directory / "tunnelled.pem").read_text()
    trust = ssl.create_default_context(cafile=str(world.authority.certificate))
    for _ in range(3):
        with open_tunnel(own.forward, f"{RULED}:{server.port}") as tunnel:
            tunnel.start_tls(trust, RULED)
            assert tunnel.peer_certificate() == ssl.PEM_cert_to_DER_cert(own_certificate)
            assert tunnel.send(b"secret").read_exactly(6) == b"secret"
    until(lambda: TLS_HINT in own.stderr(), END_SECONDS, "it is logged")
    assert own.stderr().count(TLS_HINT) == 1


@pytest.mark.parametrize("sni", [None, "elsewhere.example"])
def test_tunnel_goes_where_the_connect_said(
    through: Sidecar, server: TcpServer, sni: str | None
) -> None:
    """The name in the client's TLS leads nowhere."""
    loose = ssl.create_default_context()
    loose.check_hostname, loose.verify_mode = False, ssl.CERT_NONE
    with open_tunnel(through.forward, f"{RULED}:{server.port}") as tunnel:
        tunnel.start_tls_to(loose, sni)
        assert tunnel.send(b"there").read_exactly(5) == b"there"
    assert server.sessions[-1].sni == sni


def test_cleartext_request_inside_gets_its_token(world: World, through: Sidecar) -> None:
    """As undici sends every request; each of them, on one connection."""
    world.capture.clear()
    with open_tunnel(through.forward, world.capture_authority) as tunnel:
        for number in (1, 2):
            tunnel.send(request_bytes("GET", f"/?n={number}", world.capture_authority))
            assert tunnel.read_response().status == 200
    for received in (world.capture.wait_for(1), world.capture.wait_for(2)):
        assert claims_of(world, received)["aud"] == f"https://{CAPTURE}"
        assert received.connection.sni == CAPTURE


def test_cleartext_http2_inside_gets_its_tokens(world: World, through: Sidecar) -> None:
    """As gRPC clients speak through http_proxy."""
    world.capture.clear()
    tunnel = open_tunnel(through.forward, world.capture_authority)
    with tunnel, TunnelledH2(tunnel) as client:
        streams = [
            client.open(request_headers("GET", world.capture_authority, "/"), end=True)
            for _ in range(10)
        ]
        assert [client.wait(stream).status for stream in streams] == [200] * 10
    for received in world.capture.requests:
        assert claims_of(world, received)["aud"] == f"https://{CAPTURE}"


def test_missing_token_is_told_inside(world: World, through: Sidecar) -> None:
    """The CONNECT succeeds, the request inside gets 503."""
    target = world.cold()
    with open_tunnel(through.forward, target) as tunnel:
        world.google.down()
        try:
            answer = tunnel.send(request_bytes("GET", "/", target)).read_response()
        finally:
            world.google.up()
    assert verdict(answer) == (503, "token_unavailable")
