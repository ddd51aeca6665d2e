"""Short names through the real sidecar: `http://NAME/` reaches a service of this project."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ext_authz.standins.google import METADATA
from tests.conftest import StartSidecar
from tests.support.ask import ask, ask_grpc, error_of, request_bytes, verdict
from tests.support.sidecar import Sidecar
from tests.support.tunnels import open_tunnel
from tests.support.world import SERVICE, World

PROJECT = "123456789012"  # of the stand-in metadata server, in europe-west1
CLUSTER = "shop.default.svc.cluster.local"


def configured(world: World, *more: str) -> str:
    """The private service as `backend`, and as a Kubernetes service."""
    url = f"https://{world.service_authority}"
    return world.config("services:", f"  backend: {url}", f"  {CLUSTER}: {url}", *more)


@pytest.fixture(scope="module")
def named(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    config = configured(world)
    with world.sidecar(tmp_path_factory.mktemp("named"), config=config) as found:
        yield found


@pytest.mark.parametrize("host", ["backend", "BACKEND", "backend:8080", CLUSTER, f"{CLUSTER}:80"])
def test_a_named_service_is_reached_with_its_token(world: World, named: Sidecar, host: str) -> None:
    answer = ask(named, f"http://{host}/named")
    assert answer.status == 200, answer
    request = world.service.requests[-1]
    assert request.claims is not None
    assert request.claims["aud"] == f"https://{SERVICE}"


@pytest.mark.parametrize(
    ("host", "label"),
    [
        ("web", f"web-{PROJECT}.europe-west1"),
        ("web.us-central1", f"web-{PROJECT}.us-central1"),
        ("api.shop.svc.cluster.local", f"api-{PROJECT}.europe-west1"),
    ],
)
def test_any_other_short_name_is_the_deterministic_url_of_this_project(
    world: World, named: Sidecar, host: str, label: str
) -> None:
    """Nothing serves it here: DNS is asked for it, and the error says where it led."""
    answer = ask(named, f"http://{host}/")
    assert verdict(answer) == (503, "destination_unresolvable")
    assert error_of(answer)["destination"] == f"{label}.run.app"
    names = {name for name, _ in world.dns.queries}
    assert f"{label}.run.app" in names
    assert host not in names


def test_a_name_whose_label_would_be_too_long_says_why(named: Sidecar) -> None:
    answer = ask(named, f"http://{'a' * 51}/")
    assert verdict(answer) == (400, "bad_destination")
    message = error_of(answer)["message"]
    assert "at most 63 characters, got 64" in message
    assert "services" in message


def test_grpc_reaches_a_named_service(world: World, named: Sidecar) -> None:
    before = len(world.service.requests)
    ask_grpc(named, "backend")
    assert world.service.requests[before].claims is not None


@pytest.mark.parametrize("authority", ["backend:80", "backend:443", f"{CLUSTER}:50051"])
def test_cleartext_inside_a_connect_to_a_named_service_gets_its_token(
    world: World, named: Sidecar, authority: str
) -> None:
    """As gRPC clients do with http_proxy."""
    with open_tunnel(named.forward, authority) as tunnel:
        tunnel.send(request_bytes("GET", "/inside", authority))
        assert tunnel.read_response("GET").status == 200
    assert world.service.requests[-1].path == "/inside"


def test_many_short_names_cost_one_look_up(world: World, start_sidecar: StartSidecar) -> None:
    sidecar = start_sidecar(config=configured(world))

    def asked() -> int:
        entries = [request.path for request in world.google.requests_of(METADATA)]
        return sum(path.endswith("numeric-project-id") for path in entries)

    before = asked()
    for name in ("one", "two", "three.us-east1", "one"):
        assert ask(sidecar, f"http://{name}/").status == 503
    assert asked() == before + 1


def test_without_discovery_a_short_name_is_left_alone(
    world: World, start_sidecar: StartSidecar
) -> None:
    """It is what compose calls its services; `services` still counts."""
    world.dns.answer("neighbour", "127.0.0.1")
    sidecar = start_sidecar(config=configured(world, "discovery: off"))
    before = len(world.plain.requests)
    answer = ask(sidecar, f"http://neighbour:{world.plain.port}/")
    assert answer.status == 200
    request = world.plain.wait_for(before + 1)
    assert request.values("authorization") == []
    assert verdict(ask(sidecar, "http://web/")) == (503, "destination_unresolvable")
    assert ask(sidecar, "http://backend/").status == 200


def test_the_project_can_be_set_where_no_metadata_server_knows_it(
    world: World, start_sidecar: StartSidecar
) -> None:
    more = "discovery: {project_number: '42', region: asia-east1}"
    sidecar = start_sidecar(config=configured(world, more))
    error = error_of(ask(sidecar, "http://web/"))
    assert error["destination"] == "web-42.asia-east1.run.app"
