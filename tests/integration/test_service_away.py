"""When the ext_authz service is hung, killed or restarted, Envoy forwards nothing by itself."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ext_authz.envoy_config import EnvoySettings
from tests.conftest import StartSidecar
from tests.support.ask import ask, ask_grpc, request_bytes, send, verdict
from tests.support.envoy import Envoy
from tests.support.polling import elapsed, until
from tests.support.processes import wait_gone
from tests.support.raw import RawResponse
from tests.support.world import World

CHECK_LIMIT_SECONDS = 8.0  # Envoy waits 6 s for a Check
RECOVERY_SECONDS = 10.0
CACHE_SECONDS = 11.0  # Envoy's workers repeat an answer for ten seconds at most
NO_CACHE = "--no-credential-cache"


def envoy_settings(world: World, ext_authz: str) -> EnvoySettings:
    """Settings of an Envoy whose service listens at `ext_authz`."""
    return EnvoySettings(
        forward="127.0.0.1:0",
        admin="127.0.0.1:0",
        ext_authz=ext_authz,
        ca_file=str(world.authority.certificate),
        allow_loopback=True,
        dns_resolvers=(world.dns.authority,),
    )


def get(envoy: Envoy, authority: str) -> RawResponse:
    """One request through an Envoy that runs by itself."""
    return send(envoy.forward, request_bytes("GET", f"http://{authority}/", authority))


def bare_requests(world: World) -> list[str]:
    """Requests that reached the private service without a good token."""
    return [one.path for one in world.service.requests if one.refusal is not None]


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_hung_service_gives_503_and_recovers(world: World, start_sidecar: StartSidecar) -> None:
    """Whether a token is held or not."""
    own = start_sidecar(NO_CACHE)
    url = f"{world.service_url}/while-stopped"
    assert ask(own, url).status == 200
    world.service.forget()
    os.kill(own.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            grpc = pool.submit(ask_grpc, own, world.service_authority)
            answer = ask(own, url)
            assert grpc.result().values("grpc-status") == ["14"]
        assert elapsed(started) < CHECK_LIMIT_SECONDS
        assert verdict(answer) == (503, "sidecar_unavailable")
        assert world.service.requests == ()
    finally:
        os.kill(own.process.pid, signal.SIGCONT)
    until(lambda: ask(own, url).status == 200, RECOVERY_SECONDS, "it recovers")
    assert bare_requests(world) == []


def test_envoy_without_its_service_answers_503_until_it_comes(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Either may start first."""
    address = f"127.0.0.1:{free_port()}"
    with Envoy(tmp_path / "envoy", envoy_settings(world, address)) as envoy:
        assert verdict(get(envoy, world.service_authority)) == (503, "sidecar_unavailable")
        start_sidecar(f"--listen={address}", command="serve")
        until(
            lambda: get(envoy, world.service_authority).status == 200,
            RECOVERY_SECONDS,
            "Envoy found its service",
        )


def test_killed_service_is_replaced_without_a_bare_request(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """While it is gone every answer is 503; the next one on its Unix socket takes over."""
    listen = f"unix:{tmp_path}/authz.sock"
    service = start_sidecar(f"--listen={listen}", NO_CACHE, command="serve")
    with Envoy(tmp_path / "envoy", envoy_settings(world, listen)) as envoy:
        assert get(envoy, world.service_authority).status == 200
        world.service.forget()
        service.process.kill()
        service.wait()
        assert verdict(get(envoy, world.service_authority)) == (503, "sidecar_unavailable")
        assert world.service.requests == ()
        start_sidecar(f"--listen={listen}", command="serve")
        until(
            lambda: get(envoy, world.service_authority).status == 200,
            RECOVERY_SECONDS,
            "the new service answers",
        )
    assert bare_requests(world) == []


def test_cached_answers_outlive_the_service_briefly_and_with_a_token(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """200 with a good token or 503, and 503 alone once the answers have ended."""
    service = start_sidecar(command="serve")
    with Envoy(tmp_path / "envoy", envoy_settings(world, service.ext_authz)) as envoy:
        assert get(envoy, world.service_authority).status == 200
        world.service.forget()
        service.process.kill()
        service.wait()
        killed, statuses = time.monotonic(), set()
        while elapsed(killed) < CACHE_SECONDS:
            statuses.add(get(envoy, world.service_authority).status)
            time.sleep(0.2)
        assert statuses == {200, 503}
        assert get(envoy, world.service_authority).status == 503
    assert bare_requests(world) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restart_of_the_service_under_load_sends_nothing_bare(
    world: World, start_sidecar: StartSidecar, tmp_path: Path, number: signal.Signals
) -> None:
    """Every answer is 200 or 503, and what reaches the private service carries a good token."""
    listen = f"unix:{tmp_path}/authz.sock"
    service = start_sidecar(f"--listen={listen}", command="serve")
    with Envoy(tmp_path / "envoy", envoy_settings(world, listen)) as envoy:
        assert get(envoy, world.service_authority).status == 200
        world.service.forget()
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(get, envoy, world.service_authority) for _ in range(400)]
            service.process.send_signal(number)
            service.wait()
            start_sidecar(f"--listen={listen}", command="serve")
            statuses = {answer.result().status for answer in answers}
    assert statuses <= {200, 503}
    assert bare_requests(world) == []


def test_service_killed_outright_takes_its_envoy_along(start_sidecar: StartSidecar) -> None:
    """No orphan keeps the ports."""
    own = start_sidecar()
    envoy = own.envoy_pid()
    own.process.kill()
    own.wait()
    wait_gone(envoy)
