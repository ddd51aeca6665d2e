"""The service or Envoy is restarted or replaced while requests run, in any order and version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_authz.envoy_config import EnvoySettings
from tests.conftest import StartSidecar
from tests.integration.test_service_away import free_port, get
from tests.support.ask import error_of, request_bytes
from tests.support.envoy import Envoy
from tests.support.load import Fate, Load, bare, forwarded
from tests.support.polling import until
from tests.support.raw import RawConnection
from tests.support.world import World

RECOVERY_SECONDS = 2.0  # the aim is one; others may be busy on this machine
FROM_US = {Fate.OK, Fate.TRY_LATER}
NOBODY_THERE = {Fate.REFUSED, Fate.RESET}


@pytest.fixture(autouse=True)
def _nothing_bare(world: World) -> Iterator[None]:
    """Whatever happens, the private service sees no request without its token."""
    world.service.forget()
    yield
    assert bare(world.service) == []


def settings(world: World, ext_authz: str, forward_port: int = 0) -> EnvoySettings:
    """Settings of an Envoy beside a service at `ext_authz`."""
    return EnvoySettings(
        forward=f"127.0.0.1:{forward_port}",
        admin="127.0.0.1:0",
        ext_authz=ext_authz,
        ca_file=str(world.authority.certificate),
        allow_loopback=True,
        dns_resolvers=(world.dns.authority,),
    )


def warm(load: Load) -> float:
    """Wait until requests have been answered by every worker; give the moment."""
    until(lambda: load.counts()[Fate.OK] > 20, 15, "the load runs")
    return time.monotonic()


def recovered(load: Load, moment: float) -> float:
    """Wait for the first good answer to a request that ended after a moment; seconds it took."""
    found = until(
        lambda: [one for one in load.shots if one.ended > moment and one.fate is Fate.OK],
        10,
        "requests get through again",
        pause_seconds=0.01,
    )
    return found[0].ended - moment


def drain(envoy: Envoy) -> None:
    """What docs/operations.md says to do before an Envoy by itself gets SIGTERM."""
    host, _, port = envoy.admin.rpartition(":")
    for path in ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit", "/drain_listeners"):
        with RawConnection((host, int(port))) as admin:
            assert (
                admin.send(request_bytes("POST", path, envoy.admin)).read_response().status == 200
            )
        time.sleep(0.3)
    until(lambda: active_requests(envoy) == 0, 10, "Envoy is idle")


def active_requests(envoy: Envoy) -> int:
    """How many requests run on its forward listener."""
    text = envoy.get_admin("/stats?filter=http.forward.downstream_rq_active")
    return int(text.rpartition(":")[2])


def test_service_restarted_under_load_leaves_hot_destinations_alone(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Envoy's workers serve them; others get 503 and recover once the new service is ready."""
    address = f"127.0.0.1:{free_port()}"
    service = start_sidecar(f"--listen={address}", command="serve")
    with Envoy(tmp_path / "envoy", settings(world, address)) as envoy:
        hot = Load(envoy.forward, [world.service_authority], clients=3, name="hot")
        others = Load(envoy.forward, [world.cold() for _ in range(3)], clients=3, name="others")
        with hot:
            warm(hot)
            assert service.stop() == 0
            with others:
                until(lambda: len(others.shots) > 3, 15, "others are refused")
                assert Fate.OK not in others.counts()
                start_sidecar(f"--listen={address}", command="serve")
                assert recovered(others, time.monotonic()) < RECOVERY_SECONDS
    assert set(hot.counts()) == {Fate.OK}
    assert set(others.counts()) <= FROM_US


def test_answer_without_a_service_says_when_to_try_again(world: World, tmp_path: Path) -> None:
    """As the service's own 503 does."""
    with Envoy(tmp_path / "envoy", settings(world, f"127.0.0.1:{free_port()}")) as envoy:
        answer = get(envoy, world.service_authority)
        assert (answer.status, error_of(answer)["error"]) == (503, "sidecar_unavailable")
        assert answer.values("retry-after") == ["1"]


def test_envoy_restarted_under_load_is_back_at_once(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Drained first it loses nothing; the service notices nothing."""
    service = start_sidecar(command="serve")
    port = free_port()
    wanted = settings(world, service.ext_authz, port)
    envoy = Envoy(tmp_path / "old", wanted).start()
    with Load(("127.0.0.1", port), [world.service_authority]) as load:
        try:
            warm(load)
            drain(envoy)
        finally:
            envoy.stop()
        with Envoy(tmp_path / "new", wanted):
            assert recovered(load, time.monotonic()) < RECOVERY_SECONDS
            load.stop()
    assert load.lost(forwarded(world.service)) == []
    assert set(load.counts()) <= {Fate.OK} | NOBODY_THERE, load.counts()
    assert service.get_status("/readyz")[0] == 200


def test_envoy_that_is_cut_off_under_load_sends_nothing_bare(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Without draining, what runs is lost to its client, and the next Envoy serves on."""
    service = start_sidecar(command="serve")
    port = free_port()
    wanted = settings(world, service.ext_authz, port)
    with Load(("127.0.0.1", port), [world.service_authority]) as load:
        with Envoy(tmp_path / "old", wanted):
            warm(load)
        with Envoy(tmp_path / "new", wanted):
            assert recovered(load, time.monotonic()) < RECOVERY_SECONDS
            load.stop()
    assert set(load.counts()) <= {Fate.OK, Fate.LOST} | NOBODY_THERE, load.counts()


def test_both_are_replaced_one_after_the_other(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """The new Envoy listens beside the old one on the same port before that is drained."""
    address, port = f"127.0.0.1:{free_port()}", free_port()
    wanted = settings(world, address, port)
    service = start_sidecar(f"--listen={address}", command="serve")
    old = Envoy(tmp_path / "old", wanted).start()
    try:
        with Load(("127.0.0.1", port), [world.service_authority]) as load:
            warm(load)
            assert service.stop() == 0
            start_sidecar(f"--listen={address}", command="serve")
            with Envoy(tmp_path / "new", wanted):
                drain(old)
                old.stop()
                recovered(load, time.monotonic())
                load.stop()
    finally:
        old.stop()
    assert load.lost(forwarded(world.service)) == []
    # Linux resets a handshake that is under way with the listener that closes (net.ipv4's
    # tcp_migrate_req is off): a client sees a reset or a refusal, and nothing was sent.
    counts = load.counts()
    assert set(counts) <= {Fate.OK} | NOBODY_THERE, counts
    assert counts[Fate.REFUSED] <= 2, counts
