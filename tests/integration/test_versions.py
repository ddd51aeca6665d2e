"""An older Envoy configuration with this service, and this one with services that know less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ext_authz.envoy_config import EnvoySettings
from tests.conftest import StartSidecar
from tests.integration.test_service_away import envoy_settings, free_port
from tests.support.ask import request_bytes, send
from tests.support.check_relay import CheckRelay
from tests.support.envoy import Envoy
from tests.support.load import Fate, Load, bare
from tests.support.messages import Reply
from tests.support.polling import until
from tests.support.raw import RawResponse
from tests.support.world import World

CACHE = "credential_cache"
ADDED_WITH_IT = {CACHE, "hit", "hit_websocket"}
EXT_AUTHZ = "envoy.filters.http.ext_authz"


class OlderEnvoy(Envoy):
    """An Envoy whose configuration knows nothing of the credential cache."""

    def __init__(self, directory: Path, wanted: EnvoySettings) -> None:
        super().__init__(directory, wanted)
        config = json.dumps(without_cache(json.loads(self._config.read_text())))
        assert CACHE not in config
        self._config.write_text(config)


def without_cache(node: Any) -> Any:
    """Take the script, its routes and its words away, and the matcher around ext_authz."""
    if isinstance(node, list):
        kept = [one for one in node if not _added(one)]
        return [without_cache(one) for one in kept]
    if not isinstance(node, dict):
        return node
    if node.get("name") == EXT_AUTHZ and "xds_matcher" in node.get("typed_config", {}):
        matcher = node["typed_config"]["xds_matcher"]
        return matcher["on_no_match"]["action"]["typed_config"]["typed_config"]
    return {key: without_cache(value) for key, value in node.items() if key != CACHE}


def _added(node: Any) -> bool:
    return isinstance(node, dict) and node.get("name") in ADDED_WITH_IT


@pytest.fixture(autouse=True)
def _nothing_bare(world: World) -> Iterator[None]:
    """Whatever happens, the private service sees no request without its token."""
    world.service.forget()
    yield
    assert bare(world.service) == []


def check_all_goes_well(world: World, envoy: Envoy) -> None:
    """Under load, on hot and cold destinations, and with what a response may hold for us."""
    authorities = [world.service_authority, *(world.cold() for _ in range(5))]
    with Load(envoy.forward, authorities) as load:
        until(lambda: load.counts()[Fate.OK] > 30, 15, "the load runs")
    assert set(load.counts()) == {Fate.OK}
    location = f"https://{world.service_authority}/elsewhere"
    world.capture.script("/moved", Reply(status=302, headers=(("location", location),)))
    moved = ask(envoy, world, "/moved")
    assert moved.status == 302
    assert moved.values("location")[0].partition("://")[2] == location.partition("://")[2]
    for _ in range(2):
        assert ask(envoy, world, "/unauthorized").status == 401
    assert ask(envoy, world, "/").status == 200


def ask(envoy: Envoy, world: World, path: str) -> RawResponse:
    """One request for the recording upstream."""
    authority = world.capture_authority
    return send(envoy.forward, request_bytes("GET", f"http://{authority}{path}", authority))


@pytest.mark.parametrize("flag", ["--credential-cache", "--no-credential-cache"])
def test_older_envoy_works_with_this_service(
    world: World, start_sidecar: StartSidecar, tmp_path: Path, flag: str
) -> None:
    """It asks for each request and is told nothing to keep."""
    service = start_sidecar(flag, command="serve")
    with (
        CheckRelay(service.ext_authz) as relay,
        OlderEnvoy(tmp_path / "envoy", envoy_settings(world, relay.target)) as envoy,
    ):
        check_all_goes_well(world, envoy)
        assert len(relay.decided) == len(world.service.requests) + 4


def test_this_envoy_works_with_a_service_that_keeps_answers_to_itself(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """As every service did before the credential cache."""
    service = start_sidecar("--no-credential-cache", command="serve")
    with (
        CheckRelay(service.ext_authz) as relay,
        Envoy(tmp_path / "envoy", envoy_settings(world, service.ext_authz)) as envoy,
        Envoy(tmp_path / "beside", envoy_settings(world, relay.target)) as beside,
    ):
        check_all_goes_well(world, envoy)
        before = len(world.service.requests)
        check_all_goes_well(world, beside)
        assert len(relay.decided) == len(world.service.requests) - before + 4


def test_this_envoy_works_with_a_service_that_only_answers_check(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Nobody hears of refused tokens and redirects then: answers stay as the upstream gave them."""
    service = start_sidecar(command="serve")
    with (
        CheckRelay(service.ext_authz) as relay,
        Envoy(tmp_path / "envoy", envoy_settings(world, relay.target)) as envoy,
    ):
        check_all_goes_well(world, envoy)
        assert len(relay.decided) < len(world.service.requests)
        assert ask(envoy, world, "/moved").values("location")[0].startswith("https://")


def test_versions_meet_during_a_rollout_of_both(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """The service is replaced under an older Envoy, then Envoy under the new service."""
    address = f"127.0.0.1:{free_port()}"
    service = start_sidecar(f"--listen={address}", "--no-credential-cache", command="serve")
    with OlderEnvoy(tmp_path / "old", envoy_settings(world, address)) as old:
        check_all_goes_well(world, old)
        assert service.stop() == 0
        start_sidecar(f"--listen={address}", command="serve")
        check_all_goes_well(world, old)
        with Envoy(tmp_path / "new", envoy_settings(world, address)) as new:
            check_all_goes_well(world, new)
