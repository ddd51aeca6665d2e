"""Interception while the service that mints certificates is away or hangs."""

from __future__ import annotations

import signal
import ssl
import time
from pathlib import Path

import pytest

from ext_authz.envoy_config import EnvoySettings
from tests.conftest import StartSidecar
from tests.support.ask import request_bytes
from tests.support.envoy import Envoy
from tests.support.interception import LocalCa, make_ca, open_tls
from tests.support.polling import elapsed, until
from tests.support.sidecar import Address
from tests.support.tunnels import Tunnel, open_tunnel
from tests.support.world import World

AWAY_SECONDS = 3.0
NOISE_SECONDS = 2.0  # of a busy machine
BACK_SECONDS = 15.0


@pytest.fixture(scope="module")
def ca(world: World, tmp_path_factory: pytest.TempPathFactory) -> LocalCa:
    """Make a CA for the names of the world's rules."""
    return make_ca(tmp_path_factory.mktemp("ca"), world.config())


def host_of(authority: str) -> str:
    """The name that a client's TLS asks for."""
    return authority.rpartition(":")[0]


def assert_known_works_and_new_fails(known: Tunnel, new: Tunnel, ca: LocalCa, name: str) -> None:
    """A certificate that Envoy has is enough; one that it lacks fails soon."""
    known.start_tls(ca.trust(), name)
    started = time.monotonic()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        new.start_tls(ca.trust(), f"new-{name}")
    assert elapsed(started) < AWAY_SECONDS + NOISE_SECONDS


def works(proxy: Address, authority: str, ca: LocalCa) -> bool:
    """Whether a request inside TLS is answered."""
    try:
        with open_tls(proxy, authority, ca.trust()) as tunnel:
            tunnel.send(request_bytes("GET", "/", authority))
            return tunnel.read_response().status == 200
    except (ssl.SSLError, ConnectionError):
        return False


def test_hung_service_fails_new_names_and_leaves_known_ones(
    world: World, start_sidecar: StartSidecar, ca: LocalCa
) -> None:
    """Within three seconds; after it woke up new names work again."""
    own = start_sidecar(config=world.config(ca.setting))
    authority = world.cold()
    assert works(own.forward, authority, ca)
    with open_tunnel(own.forward, authority) as known, open_tunnel(own.forward, authority) as new:
        own.process.send_signal(signal.SIGSTOP)
        try:
            assert_known_works_and_new_fails(known, new, ca, host_of(authority))
        finally:
            own.process.send_signal(signal.SIGCONT)
    until(lambda: works(own.forward, world.cold(), ca), BACK_SECONDS, "new names work again")


def test_dead_service_fails_new_names_and_leaves_known_ones(
    world: World, start_sidecar: StartSidecar, tmp_path: Path, ca: LocalCa
) -> None:
    """Within three seconds; when it is back at the same place new names work again."""
    config, address = world.config(ca.setting), f"unix:{tmp_path / 'ext_authz.sock'}"
    first = start_sidecar(f"--listen={address}", config=config, command="serve")
    settings = EnvoySettings(
        forward="127.0.0.1:0",
        admin="127.0.0.1:0",
        ext_authz=address,
        ca_file=str(world.authority.certificate),
        allow_loopback=True,
        dns_resolvers=(world.dns.authority,),
        intercept_https=True,
    )
    with Envoy(tmp_path / "envoy", settings) as envoy:
        proxy, authority = envoy.forward, world.cold()
        until(lambda: works(proxy, authority, ca), BACK_SECONDS, "the first name works")
        with open_tunnel(proxy, authority) as known, open_tunnel(proxy, authority) as new:
            first.stop()
            assert_known_works_and_new_fails(known, new, ca, host_of(authority))
        start_sidecar(f"--listen={address}", config=config, command="serve")
        until(lambda: works(proxy, world.cold(), ca), BACK_SECONDS, "new names work again")
