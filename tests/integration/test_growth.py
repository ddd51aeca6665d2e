"""Neither Envoy nor the service grows with the number of tunnels and of intercepted names.

10,000 tunnels and 1,000 names are what CI runs; IDTOKEN_SIDECAR_TEST_TUNNELS and
IDTOKEN_SIDECAR_TEST_NAMES set other numbers (at least 1,000 and 100).
"""

from __future__ import annotations

import os
from functools import partial

import pytest

from tests.conftest import StartSidecar
from tests.support.crowd import Footprint, crowd, footprint, handshake, short_tunnel
from tests.support.interception import make_ca
from tests.support.polling import until
from tests.support.sidecar import Sidecar
from tests.support.tcp import TcpServer
from tests.support.world import COLD, World

TUNNELS = max(1000, int(os.environ.get("IDTOKEN_SIDECAR_TEST_TUNNELS", "10000")))
NAMES = max(100, int(os.environ.get("IDTOKEN_SIDECAR_TEST_NAMES", "1000")))
MAX_NAMES = 1000  # ext_authz.interception keeps so many in Envoy
WARM_UP = 1000
ALLOWED_MEGABYTES = 8.0
ALLOWED_DESCRIPTORS = 10
SETTLE_SECONDS = 15.0
MINTED_AT_ONCE = 4  # Envoy gives the service 1.5 s for a certificate; one takes about 20 ms
ACTIVE = "listener.envoy_internal_tunnel.on_demand_secret.cert_active"

pytestmark = pytest.mark.slow


def assert_not_grown(sidecar: Sidecar, before: dict[int, Footprint]) -> None:
    """Wait until the last connections are closed; then compare both processes with before."""

    def is_settled() -> bool:
        after = {pid: footprint(pid) for pid in before}
        return all(
            after[pid].descriptors <= before[pid].descriptors + ALLOWED_DESCRIPTORS
            for pid in before
        )

    until(is_settled, SETTLE_SECONDS, "the descriptors are closed")
    for pid, was in before.items():
        grown = footprint(pid).megabytes - was.megabytes
        assert grown < ALLOWED_MEGABYTES, (pid == sidecar.process.pid, was, footprint(pid))


def footprints(sidecar: Sidecar) -> dict[int, Footprint]:
    """Measure the service and Envoy."""
    return {pid: footprint(pid) for pid in (sidecar.process.pid, sidecar.envoy_pid())}


@pytest.mark.parametrize("host", ["other.localhost", "ruled.localhost"])
def test_short_tunnels_leave_nothing_behind(
    world: World, start_sidecar: StartSidecar, host: str
) -> None:
    """Straight ones, and a tenth as many that are looked into."""
    with TcpServer(greeting=b"") as server:
        rules = [f'{{match: "ruled.localhost:{server.port}"}}']
        own = start_sidecar(config=world.config(rules=rules))
        work = partial(short_tunnel, own.forward, f"{host}:{server.port}")
        count = TUNNELS if host == "other.localhost" else TUNNELS // 10
        crowd([work] * min(WARM_UP, count // 2))
        before = footprints(own)
        crowd([work] * count)
        assert_not_grown(own, before)


def active(sidecar: Sidecar) -> int:
    """How many certificates Envoy holds."""
    for line in sidecar.get_admin("/stats?filter=cert_active").splitlines():
        if line.startswith(f"{ACTIVE}: "):
            return int(line.rpartition(" ")[2])
    return 0


def test_intercepted_names_are_bounded(world: World, start_sidecar: StartSidecar) -> None:
    """Known names cost nothing more; beyond the bound the oldest make room for the new ones."""
    ca = make_ca(world.directory / "growth", world.config())
    own = start_sidecar(config=world.config(ca.setting))
    trust = ca.trust()

    def names(first: int, last: int) -> None:
        hands = (f"name{number}.{COLD}" for number in range(first, last))
        target = world.service_authority
        work = [partial(handshake, own.forward, target, name, trust) for name in hands]
        crowd(work, MINTED_AT_ONCE)

    names(0, NAMES)
    assert active(own) == min(NAMES, MAX_NAMES)
    before = footprints(own)
    names(0, NAMES // 10)
    names(NAMES, NAMES + NAMES // 10)
    assert active(own) <= MAX_NAMES
    assert_not_grown(own, before)
