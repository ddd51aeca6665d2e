"""HTTPS opened for the hosts that have a rule, and for nobody else."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import request_bytes, verdict
from tests.support.capture import CaptureServer
from tests.support.interception import LocalCa, issuer_of, make_ca, open_tls
from tests.support.polling import elapsed
from tests.support.raw_h2 import request_headers
from tests.support.sidecar import Sidecar
from tests.support.tcp import TcpServer
from tests.support.tunnels import TunnelledH2, claims_of, open_tunnel
from tests.support.world import CAPTURE, COLD, SERVICE, World, server_tls

LOCAL_CA = "idtoken-sidecar local CA"
AT_ONCE_SECONDS = 2.5
UPSTREAM_CA = "idtoken-sidecar local authority"


@pytest.fixture(scope="module")
def ca(world: World, tmp_path_factory: pytest.TempPathFactory) -> LocalCa:
    """Make a CA for the names of the world's rules."""
    return make_ca(tmp_path_factory.mktemp("ca"), world.config())


@pytest.fixture(scope="module")
def opened(
    world: World, ca: LocalCa, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """Run a sidecar that intercepts."""
    with world.sidecar(tmp_path_factory.mktemp("opened"), config=world.config(ca.setting)) as found:
        yield found


def get(host: str, path: str = "/") -> bytes:
    """A GET as it travels inside TLS."""
    return request_bytes("GET", path, host)


def test_request_inside_tls_gets_its_token(world: World, opened: Sidecar, ca: LocalCa) -> None:
    """HTTP/1.1: the client sees our certificate, the upstream a verified connection and a token."""
    world.capture.clear()
    with open_tls(opened.forward, world.capture_authority, ca.trust()) as tunnel:
        assert LOCAL_CA in issuer_of(tunnel)
        for number in (1, 2):
            answer = tunnel.send(get(world.capture_authority, f"/?{number}")).read_response()
            assert answer.body == b"Hello from the receiving service!"
    for received in (world.capture.wait_for(1), world.capture.wait_for(2)):
        assert claims_of(world, received)["aud"] == f"https://{CAPTURE}"
        assert received.connection.sni == CAPTURE


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_client_chooses_the_protocol(
    world: World, opened: Sidecar, ca: LocalCa, protocol: str
) -> None:
    """By ALPN."""
    trust = ca.trust(protocol)
    with open_tunnel(opened.forward, world.capture_authority) as tunnel:
        assert tunnel.start_tls(trust, CAPTURE) == protocol


def test_app_keeps_its_own_header_inside(world: World, opened: Sidecar, ca: LocalCa) -> None:
    """As outside: the token goes beside it."""
    request = request_bytes("GET", "/", world.capture_authority, [("Authorization", "Basic eDp5")])
    with open_tls(opened.forward, world.capture_authority, ca.trust()) as tunnel:
        assert tunnel.send(request).read_response().status == 200
    received = world.capture.requests[-1]
    assert received.values("authorization") == ["Basic eDp5"]
    assert received.values("x-serverless-authorization")[0].startswith("Bearer ")


def test_missing_token_is_told_inside(world: World, opened: Sidecar, ca: LocalCa) -> None:
    """503 in the usual form, never a request without its token."""
    target = world.cold()
    with open_tls(opened.forward, target, ca.trust()) as tunnel:
        world.google.down()
        try:
            answer = tunnel.send(get(target)).read_response()
        finally:
            world.google.up()
    assert verdict(answer) == (503, "token_unavailable")


def test_upstream_certificate_is_still_verified(
    world: World, start_sidecar: StartSidecar, ca: LocalCa
) -> None:
    """A server with a certificate for another name gets no request."""
    leaf = world.authority.issue("another.example", file_name="another")
    with CaptureServer(tls=server_tls(leaf)) as trap:
        target = f"trap.{COLD}:{trap.port}"
        config = world.config(ca.setting, rules=[f'{{match: "{target}"}}'])
        own = start_sidecar(config=config)
        with open_tls(own.forward, target, ca.trust()) as tunnel:
            answer = tunnel.send(get(target)).read_response()
        assert verdict(answer) == (503, "upstream_tls_failed")
        assert trap.requests == []


def test_host_without_a_rule_stays_end_to_end(world: World, opened: Sidecar) -> None:
    """Nobody else's TLS is opened."""
    leaf = world.authority.issue("private.example.localhost", file_name="theirs")
    with TcpServer(tls=server_tls(leaf, "http/1.1")) as server:
        trust = ssl.create_default_context(cafile=str(world.authority.certificate))
        target = f"private.example.localhost:{server.port}"
        with open_tls(opened.forward, target, trust) as tunnel:
            assert tunnel.peer_certificate() == ssl.PEM_cert_to_DER_cert(
                leaf.certificate.read_text()
            )
            assert tunnel.send(b"secret").read_exactly(6) == b"secret"


@pytest.mark.parametrize("sni", ["evil.localhost", f"{SERVICE}.evil.localhost", "run.app", None])
def test_name_without_a_rule_is_refused_in_the_handshake(
    world: World, opened: Sidecar, ca: LocalCa, sni: str | None
) -> None:
    """At once, by the certificate that is not there."""
    trust = ca.trust()
    trust.check_hostname = False
    started = time.monotonic()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        open_tls(opened.forward, world.service_authority, trust, sni)
    assert elapsed(started) < AT_ONCE_SECONDS


def test_upper_case_name_is_known(world: World, opened: Sidecar, ca: LocalCa) -> None:
    """Names have no case."""
    trust = ca.trust()
    with open_tls(opened.forward, world.capture_authority, trust, CAPTURE.upper()) as tunnel:
        assert tunnel.send(get(world.capture_authority)).read_response().status == 200


def test_request_for_another_host_is_judged_as_such(
    world: World, opened: Sidecar, ca: LocalCa
) -> None:
    """Without a rule it is refused: it came by TLS and never leaves in clear."""
    world.plain.clear()
    with open_tls(opened.forward, world.capture_authority, ca.trust()) as tunnel:
        answer = tunnel.send(get(f"plain.localhost:{world.plain.port}")).read_response()
    assert verdict(answer) == (403, "destination_denied")
    assert world.plain.requests == []


def test_http2_inside_carries_many_streams(world: World, opened: Sidecar, ca: LocalCa) -> None:
    """Each with its token."""
    tunnel = open_tls(opened.forward, world.capture_authority, ca.trust("h2"))
    with tunnel, TunnelledH2(tunnel) as client:
        streams = [
            client.open(
                request_headers("GET", world.capture_authority, "/", scheme="https"), end=True
            )
            for _ in range(20)
        ]
        assert [client.wait(stream).status for stream in streams] == [200] * 20


@pytest.mark.parametrize("setting", ["", "intercept_https: {enabled: false}"])
def test_nothing_of_it_runs_while_it_is_off(
    world: World, start_sidecar: StartSidecar, setting: str
) -> None:
    """No stream for secrets, no certificate selector; TLS passes end to end."""
    own = start_sidecar(config=world.config(setting))
    stats = own.get_admin("/stats")
    assert "control_plane" not in stats
    assert "intercepted" not in stats
    listeners = own.get_admin("/config_dump?resource=static_listeners")
    assert "tls_inspector" in listeners
    assert "on_demand_secret" not in listeners
    trust = ssl.create_default_context(cafile=str(world.authority.certificate))
    with open_tls(own.forward, world.service_authority, trust) as tunnel:
        assert UPSTREAM_CA in issuer_of(tunnel)


def test_it_is_one_stream_while_it_is_on(opened: Sidecar) -> None:
    """However many names."""
    assert "control_plane.connected_state: 1" in opened.get_admin("/stats?filter=control_plane")
