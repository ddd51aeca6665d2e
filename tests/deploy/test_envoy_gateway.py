"""deploy/envoy-gateway, translated by Envoy Gateway's own tool, drives a real Envoy and `serve`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ext_authz.standins.certificates import Authority, make_authority
from ext_authz.standins.grpc_service import GrpcService
from ext_authz.standins.private_app import ReceivedRequest
from ext_authz.tokens import unverified_claims
from tests.deploy import translation
from tests.deploy.foreign_envoy import ForeignEnvoy, bootstrap, identity, localised, trust
from tests.deploy.kustomize import named, render
from tests.support.grpc_calls import GrpcCall, Way, call_grpcio
from tests.support.raw import RawResponse, exchange_raw
from tests.support.sidecar import Sidecar
from tests.support.world import World

LISTENER = "idtoken-sidecar/egress/http"
SERVER_NAME = "idtoken-sidecar.idtoken-sidecar.svc"
ATHENS = "athens-abc123-ew.a.run.app"
SHORT_NAME = "athens.example.internal"


@dataclass(frozen=True)
class Gateway:
    """Envoy as the gateway, the service behind it, and the private service that both lead to."""

    world: World
    envoy: ForeignEnvoy
    service: Sidecar

    def ask(self, host: str, *headers: str, target: str = "/x") -> RawResponse:
        """Send one request with this Host."""
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        return exchange_raw(
            self.envoy.listener(LISTENER), "\r\n".join(lines).encode(), timeout_seconds=15
        )

    def received(self) -> ReceivedRequest:
        """The one request that the private service has got since it was told to forget."""
        (found,) = self.world.service.requests
        return found


def service_config(*ports: int) -> str:
    """The shipped configuration, with rules for the ports that private services have here."""
    shipped = named(render("envoy-gateway"), "ConfigMap", "idtoken-sidecar")["data"]["sidecar.yaml"]
    settings = yaml.safe_load(shipped)
    settings["destinations"] += [{"match": f"*.a.run.app:{port}"} for port in ports]
    return str(yaml.safe_dump(settings))


@contextmanager
def gateway(
    world: World,
    directory: Path,
    authority: Authority,
    *ports: int,
    client: str = "egress-gateway",
) -> Iterator[Gateway]:
    """Run both; `client` is the name in the gateway's certificate, `ports` are further rules'."""
    world.service.guard.audiences |= {f"https://{ATHENS}", "https://hello.a.run.app"}
    leaf = authority.issue(SERVER_NAME, file_name="server")
    flags = [f"--tls-certificate={leaf.certificate}", f"--tls-key={leaf.key}"]
    flags += [f"--tls-client-ca={authority.certificate}", "--allowed-clients=egress-gateway"]
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        rules = service_config(world.service.port, *ports)
        made = world.sidecar(directory / "serve", *flags, config=rules, command="serve")
        service = stack.enter_context(made)
        host, _, port = service.ext_authz.rpartition(":")
        config = localised(
            translation.kept(), (host, int(port)), world.service.port, world.dns.authority
        )
        secrets = [
            trust("system_ca_certificates", world.authority),
            trust("idtoken-sidecar/idtoken-sidecar-ca", authority),
            identity("idtoken-sidecar/egress-gateway-client", authority, client, file_name="gw"),
        ]
        made_envoy = ForeignEnvoy(directory / "envoy", bootstrap(**config, secrets=secrets))
        yield Gateway(world, stack.enter_context(made_envoy), service)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make the CA that cert-manager would be."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def grpc_service(world: World) -> Iterator[GrpcService]:
    """Serve gRPC behind TLS to callers with a token."""
    leaf = world.authority.issue("*.a.run.app", file_name="grpc-of-gateway")
    with GrpcService(world.google.issuer, {"https://echo.a.run.app"}, leaf) as found:
        yield found


@pytest.fixture(scope="module")
def _shared(
    world: World,
    authority: Authority,
    grpc_service: GrpcService,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with gateway(world, directory, authority, grpc_service.port) as found:
        yield found


@pytest.fixture
def running(_shared: Gateway) -> Gateway:
    """Return the gateway of all tests that break nothing, with nothing received yet."""
    _shared.world.service.forget()
    return _shared


def test_the_kept_translation_is_that_of_these_manifests() -> None:
    kept = translation.kept()
    assert kept["egctl"] == translation.VERSION
    assert kept["source"] == translation.digest(), "run python -m tests.deploy.translation"
    assert set(kept["conditions"].values()) == {"True"}


@pytest.mark.skipif(shutil.which("egctl") is None, reason="egctl takes ten minutes to build")
def test_a_new_translation_is_the_kept_one() -> None:
    assert translation.translate(str(shutil.which("egctl"))) == translation.kept()


def test_every_route_asks_the_service_and_fails_closed() -> None:
    """A route without a SecurityPolicy would send requests out without a token."""
    kept = translation.kept()
    routes = [
        route
        for config in kept["routes"]
        for virtual_host in config["virtualHosts"]
        for route in virtual_host["routes"]
    ]
    assert len(routes) == 2
    for route in routes:
        assert any("ext_authz" in name for name in route["typedPerFilterConfig"]), route["name"]
    assert "failureModeAllow" not in json.dumps(kept)


def test_a_request_gets_the_token_of_its_host(running: Gateway) -> None:
    answer = running.ask(f"hello.a.run.app:{running.world.service.port}")
    assert answer.status == 200, answer.body
    got = running.received()
    assert got.claims is not None
    assert got.claims["aud"] == "https://hello.a.run.app"
    assert got.header("x-serverless-authorization") is None


def test_http_proxy_leads_here_too(running: Gateway) -> None:
    """The absolute form, as clients send it to a proxy."""
    host = f"hello.a.run.app:{running.world.service.port}"
    assert running.ask(host, target=f"http://{host}/x").status == 200
    assert running.received().path == "/x"


def test_the_routes_context_decides_and_not_the_host(running: Gateway) -> None:
    words = ("destination: evil.a.run.app", "x-ext-authz-destination: evil.a.run.app")
    answer = running.ask(SHORT_NAME, *words)
    assert answer.status == 200, answer.body
    got = running.received()
    assert got.claims is not None
    assert got.claims["aud"] == f"https://{ATHENS}"
    assert got.header("host") in (ATHENS, None)


def test_the_apps_own_authorization_stays(running: Gateway) -> None:
    host = f"hello.a.run.app:{running.world.service.port}"
    assert running.ask(host, "Authorization: Basic abc").status == 200
    got = running.received()
    assert got.values("authorization") == ["Basic abc"]
    token = str(got.header("x-serverless-authorization")).removeprefix("Bearer ")
    assert unverified_claims(token)["aud"] == "https://hello.a.run.app"


def test_an_inbound_serverless_header_is_dropped(running: Gateway) -> None:
    host = f"hello.a.run.app:{running.world.service.port}"
    assert running.ask(host, "X-Serverless-Authorization: Bearer forged").status == 200
    assert running.received().header("x-serverless-authorization") is None


def test_a_denial_reaches_the_app_unchanged(running: Gateway) -> None:
    """A port without a rule: nobody thought of it, so it gets nothing."""
    answer = running.ask("hello.a.run.app:1234")
    assert answer.status == 403
    assert json.loads(answer.body)["error"] == "destination_denied"
    assert answer.values("content-type") == ["application/json"]


def test_grpc_gets_its_token(running: Gateway, grpc_service: GrpcService) -> None:
    """A plaintext channel in HTTP/2; the policy keeps the protocol on the way out."""
    host, port = running.envoy.listener(LISTENER)
    way = Way(f"{host}:{port}", f"echo.a.run.app:{grpc_service.port}")
    answer = call_grpcio(way, GrpcCall(method="Bidi", messages=("a", "b")))
    assert (answer.code, len(answer.messages)) == (0, 2), answer.details
    assert [call.refusal for call in grpc_service.calls] == [None]


def test_hosts_without_a_route_lead_nowhere(running: Gateway) -> None:
    assert running.ask("other.example").status == 404
    assert not running.world.service.requests


def test_without_the_service_nothing_is_forwarded(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    with gateway(world, tmp_path, authority) as found:
        assert found.ask(SHORT_NAME).status == 200
        found.service.stop()
        world.service.forget()
        assert found.ask(SHORT_NAME).status == 503
        assert not world.service.requests


def test_another_certificate_of_the_same_authority_gets_no_token(
    world: World, authority: Authority, tmp_path: Path
) -> None:
    world.service.forget()
    with gateway(world, tmp_path, authority, client="somebody-else") as found:
        assert found.ask(SHORT_NAME).status == 503
        assert not world.service.requests
        assert "idtoken_sidecar_checks_total{" not in found.service.get_status("/metrics")[1]
