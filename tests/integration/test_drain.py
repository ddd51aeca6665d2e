"""SIGTERM under load: what has been accepted is answered, and health says first that we go."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from tests.conftest import StartSidecar
from tests.integration.test_service_away import envoy_settings, get
from tests.support.ask import ask
from tests.support.capture import CaptureServer
from tests.support.envoy import Envoy
from tests.support.grpc_calls import (
    GrpcCall,
    authority_of,
    call_on,
    config_for,
    go_contact,
    open_channel,
    way_in,
)
from tests.support.load import Fate, Load, bare, forwarded
from tests.support.messages import Reply
from tests.support.polling import elapsed, until
from tests.support.processes import wait_gone
from tests.support.sidecar import Sidecar
from tests.support.world import World

WARM_SECONDS = 0.5
SLOW_SECONDS = 1.0
FLIP_SECONDS = 1.0
STOP_DELAY_SECONDS = 2
OK, UNAVAILABLE = 0, 14  # gRPC status codes
NO_ANSWER_FROM_US = {Fate.REFUSED, Fate.RESET}
PARTS = tuple(f"part {number};".encode() for number in range(10))


@pytest.fixture(autouse=True)
def _nothing_bare(world: World) -> Iterator[None]:
    """Whatever happens, the private service sees no request without its token."""
    world.service.forget()
    yield
    assert bare(world.service) == []


def warm(load: Load) -> None:
    """Wait until every client has been answered often."""
    time.sleep(WARM_SECONDS)
    until(lambda: load.counts()[Fate.OK] > 20, 10, "the load runs")
    assert set(load.counts()) == {Fate.OK}


def running(world: World, own: Sidecar, pool: ThreadPoolExecutor) -> Callable[[], list[bytes]]:
    """Begin a slow request and a stream, both shorter than the drain; give what ends them."""
    world.capture.script("/slow", Reply(body=b"slow, and whole", delay_seconds=SLOW_SECONDS))
    world.capture.script("/stream", Reply(parts=PARTS, gap_seconds=SLOW_SECONDS / len(PARTS)))
    seen = len(world.capture.connections)
    asked = [pool.submit(ask, own, f"{world.capture_url}{path}") for path in ("/slow", "/stream")]
    until(lambda: len(world.capture.connections) > seen, 5, "they are running")
    time.sleep(0.1)
    return lambda: [one.result().body for one in asked]


@pytest.mark.parametrize("drain_seconds", [2, 5])
def test_sigterm_to_run_loses_no_accepted_request(
    world: World, start_sidecar: StartSidecar, drain_seconds: int
) -> None:
    """Kept and new connections, a slow request and a stream."""
    own = start_sidecar(f"--drain-seconds={drain_seconds}")
    envoy = own.envoy_pid()
    with Load(own.forward, [world.service_authority]) as load, ThreadPoolExecutor(2) as pool:
        warm(load)
        bodies = running(world, own, pool)
        own.process.send_signal(signal.SIGTERM)
        assert own.wait() == 0
        assert bodies() == [b"slow, and whole", b"".join(PARTS)]
    wait_gone(envoy)
    assert load.lost(forwarded(world.service)) == []
    assert set(load.counts()) <= {Fate.OK} | NO_ANSWER_FROM_US, load.counts()


def test_load_that_is_never_idle_loses_no_accepted_request(start_sidecar: StartSidecar) -> None:
    """Listeners close early enough for the last accepted request to end in the drain time."""
    own = start_sidecar("--drain-seconds=3")
    with CaptureServer(default=Reply(body=b"late", delay_seconds=0.6)) as busy:
        with Load(own.forward, [f"busy.localhost:{busy.port}"], clients=8) as load:
            until(lambda: load.counts()[Fate.OK] > 8, 15, "the load runs")
            own.process.send_signal(signal.SIGTERM)
            assert own.wait() == 0
        seen = {request.path for request in busy.requests}
    assert load.lost(seen) == []
    assert set(load.counts()) <= {Fate.OK} | NO_ANSWER_FROM_US, load.counts()


def test_clients_that_keep_their_connection_are_told_to_close_it(
    world: World, start_sidecar: StartSidecar
) -> None:
    """None of them meets a connection that was closed under it."""
    own = start_sidecar()
    with Load(own.forward, [world.service_authority]) as load:
        warm(load)
        own.process.send_signal(signal.SIGTERM)
        assert own.wait() == 0
    assert [shot for shot in load.shots if shot.reused and shot.fate is not Fate.OK] == []


def test_grpc_calls_on_one_channel_are_answered_or_never_made(
    world: World, start_sidecar: StartSidecar
) -> None:
    """GOAWAY lets running calls end; the next find nobody."""
    with go_contact(world) as service:
        own = start_sidecar(config=config_for(world, service))
        codes: list[int] = []
        way = way_in("forward", own, authority_of(service))
        with open_channel(way) as channel, ThreadPoolExecutor(3) as pool:
            callers = [pool.submit(call_until_gone, channel, codes) for _ in range(3)]
            until(lambda: len(codes) > 20, 10, "calls are made")
            own.process.send_signal(signal.SIGTERM)
            assert own.wait() == 0
            for caller in callers:
                caller.result()
        assert set(codes) == {OK, UNAVAILABLE}
        assert codes.count(OK) == len(service.calls)


def call_until_gone(channel: grpc.Channel, codes: list[int]) -> None:
    """Call again and again until nobody answers; note the codes."""
    until(lambda: codes.append(call_on(channel, GrpcCall()).code) or codes[-1] != OK, 20, "it ends")


def test_health_flips_first_and_all_is_served_for_the_stop_delay(
    world: World, start_sidecar: StartSidecar
) -> None:
    """On new connections and kept ones, with Checks of destinations that are new, too."""
    own = start_sidecar(f"--stop-delay={STOP_DELAY_SECONDS}")
    authorities = [world.service_authority, *(world.cold() for _ in range(20))]
    with Load(own.forward, authorities) as load, grpc.insecure_channel(own.ext_authz) as channel:
        warm(load)
        own.process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        until(lambda: own.get_status("/readyz")[0] == 503, FLIP_SECONDS, "it is not ready")
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert own.get_status("/healthz")[0] == 200
        flipped = time.monotonic()
        assert ask(own, f"http://{world.cold()}/while-draining").status == 200
        assert own.wait() == 0
        assert elapsed(sent) > STOP_DELAY_SECONDS
    served = [one for one in load.since(flipped) if one.ended < sent + STOP_DELAY_SECONDS]
    assert {one.fate for one in served} == {Fate.OK}
    assert load.lost(forwarded(world.service)) == []


def test_sigterm_to_serve_lets_running_checks_end(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """A cold destination gets its token; hot ones are served by Envoy's workers meanwhile."""
    service = start_sidecar(command="serve")
    with Envoy(tmp_path / "envoy", envoy_settings(world, service.ext_authz)) as envoy:
        assert get(envoy, world.service_authority).status == 200
        authority = world.cold()
        world.google.fail(IDENTITY, Fault.stall(SLOW_SECONDS), times=1)
        asked = len(world.google.requests_of(IDENTITY))
        with (
            Load(envoy.forward, [world.service_authority]) as load,
            ThreadPoolExecutor(1) as pool,
        ):
            warm(load)
            cold = pool.submit(get, envoy, authority)
            until(lambda: len(world.google.requests_of(IDENTITY)) > asked, 5, "it is fetching")
            service.process.send_signal(signal.SIGTERM)
            assert cold.result().status == 200
            assert service.wait() == 0
        assert set(load.counts()) == {Fate.OK}


def test_serve_answers_every_check_for_the_stop_delay(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """So that an app that got SIGTERM at the same moment can end its work."""
    service = start_sidecar(
        f"--stop-delay={STOP_DELAY_SECONDS}", "--no-credential-cache", command="serve"
    )
    with Envoy(tmp_path / "envoy", envoy_settings(world, service.ext_authz)) as envoy:
        with Load(envoy.forward, [world.service_authority]) as load:
            warm(load)
            service.process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            until(lambda: service.get_status("/readyz")[0] == 503, FLIP_SECONDS, "it flips")
            assert get(envoy, world.cold()).status == 200
            assert service.wait() == 0
        delayed = [one for one in load.shots if one.ended < sent + STOP_DELAY_SECONDS]
        assert {one.fate for one in delayed} == {Fate.OK}
        assert set(load.counts()) <= {Fate.OK, Fate.TRY_LATER}
