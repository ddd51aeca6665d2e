"""deploy/istio: the gateway asks `serve` through the mesh, and fails closed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ext_authz.standins.certificates import make_authority
from tests.deploy import istio
from tests.deploy.foreign_envoy import ForeignEnvoy, bootstrap, identity, trust
from tests.deploy.kustomize import named, render
from tests.support.raw import RawResponse, exchange_raw
from tests.support.sidecar import Sidecar
from tests.support.world import World

ATHENS = "athens-abc123-ew.a.run.app"


@dataclass(frozen=True)
class Mesh:
    """The gateway, the service's own proxy (both in one Envoy), and the service on loopback."""

    world: World
    envoy: ForeignEnvoy
    service: Sidecar

    def ask(self, host: str, *headers: str) -> RawResponse:
        """Send one request to the gateway with this Host."""
        lines = ["GET /x HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        address = self.envoy.listener(istio.GATEWAY)
        return exchange_raw(address, "\r\n".join(lines).encode(), timeout_seconds=15)


@contextmanager
def mesh(world: World, directory: Path, *, caller: str = "idtoken-egress") -> Iterator[Mesh]:
    """Run them; `caller` is the gateway's name in the mesh (Istio's are SPIFFE, here DNS)."""
    world.service.guard.audiences.add(f"https://{ATHENS}")
    authority = make_authority(directory / "ca")
    shipped = named(render("istio"), "ConfigMap", "idtoken-sidecar")["data"]["sidecar.yaml"]
    with ExitStack() as stack:
        made = world.sidecar(directory / "serve", config=shipped, command="serve")
        service = stack.enter_context(made)
        host, _, port = service.ext_authz.rpartition(":")
        inbound = directory / "in.sock"
        upstream = ("127.0.0.1", world.service.port)
        config = bootstrap(
            istio.listeners(inbound),
            istio.clusters(inbound, (host, int(port)), upstream, world.dns.authority),
            [
                trust("system", world.authority),
                trust("mesh", authority),
                identity("gateway", authority, caller, file_name="gateway"),
                identity("service", authority, "idtoken-sidecar", file_name="service"),
            ],
        )
        yield Mesh(world, stack.enter_context(ForeignEnvoy(directory / "envoy", config)), service)


@pytest.fixture(scope="module")
def _shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh(world, tmp_path_factory.mktemp("mesh")) as found:
        yield found


@pytest.fixture
def running(_shared: Mesh) -> Mesh:
    """Return the mesh of all tests that break nothing, with nothing received yet."""
    _shared.world.service.forget()
    return _shared


def test_a_request_gets_the_token_of_its_host(running: Mesh) -> None:
    answer = running.ask(ATHENS, "X-Serverless-Authorization: Bearer forged")
    assert answer.status == 200, answer.body
    (got,) = running.world.service.requests
    assert got.claims is not None
    assert got.claims["aud"] == f"https://{ATHENS}"
    assert got.header("x-serverless-authorization") is None


def test_other_hosts_are_refused_by_the_mesh_or_the_service(running: Mesh) -> None:
    """No route leads there; and the policy of the callers names the hosts."""
    for host in ("other.example", "evil.a.run.app", f"{ATHENS}.evil.example"):
        assert running.ask(host).status in (403, 404), host
    answer = running.ask(f"{ATHENS}:1234")
    assert (answer.status, json.loads(answer.body)["error"]) == (403, "destination_denied")
    assert not running.world.service.requests


def test_the_service_listens_on_loopback_only() -> None:
    """Its proxy hands over what the mesh's mTLS let in: no certificate, no exception needed."""
    deployment = named(render("istio"), "Deployment", "idtoken-sidecar")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environ = {each["name"]: each.get("value") for each in container["env"]}
    assert environ["IDTOKEN_SIDECAR_LISTEN"] == "127.0.0.1:9191"
    assert "IDTOKEN_SIDECAR_INSECURE_LISTEN" not in environ
    ingress, status = named(render("istio"), "Sidecar")["spec"]["ingress"]
    assert status["port"]["number"] == 9902
    assert ingress["defaultEndpoint"] == environ["IDTOKEN_SIDECAR_LISTEN"]
    mode = named(render("istio"), "PeerAuthentication")["spec"]["mtls"]["mode"]
    assert mode == "STRICT"


def test_without_the_service_nothing_is_forwarded(world: World, tmp_path: Path) -> None:
    with mesh(world, tmp_path) as found:
        assert found.ask(ATHENS).status == 200
        found.service.stop()
        world.service.forget()
        assert found.ask(ATHENS).status == 503
        assert not world.service.requests


def test_another_workload_of_the_mesh_gets_no_token(world: World, tmp_path: Path) -> None:
    world.service.forget()
    with mesh(world, tmp_path, caller="shop") as found:
        assert found.ask(ATHENS).status == 503
        assert not world.service.requests
        assert "idtoken_sidecar_checks_total{" not in found.service.get_status("/metrics")[1]
