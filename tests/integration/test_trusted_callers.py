"""`serve` behind an Envoy that is not ours: its routes' words count, headers never."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ask import request_bytes, send, verdict
from tests.support.foreign_envoy import ForeignEnvoy
from tests.support.messages import RequestHead
from tests.support.tunnels import claims_of
from tests.support.world import CAPTURE, World

ROBOT = "robot@local-project.iam.gserviceaccount.com"
STATIC = "static-token-of-athens"
HOST = "svc.cold.localhost"
ATHENS = "athens.cold.localhost"
# What each route of the other Envoy says.
ROUTES = {
    "/audience": {"audience": "from-the-route"},
    "/credential": {"credential": "robot"},
    "/destination": {"destination": "other.cold.localhost"},
    "/all": {"destination": HOST, "audience": "all", "credential": "robot"},
    "/nobody": {"credential": "nobody"},
    "/static": {"credential": "athens"},
    "/metadata": {"destination": "169.254.169.254"},
    "/listener": {"listener": "no such listener"},
    "/": {},
}


@pytest.fixture(scope="module")
def foreign(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignEnvoy]:
    google = world.google
    google.directory.grant_token_creator(ROBOT, str(google.metadata.email))
    directory = tmp_path_factory.mktemp("foreign")
    (directory / "static").write_text(STATIC)
    rules = [
        f"{{match: {ATHENS}, credential: athens}}",
        "{match: '*.cold.localhost'}",
    ]
    config = world.config(
        "credentials:",
        f"  robot: {{impersonate: {ROBOT}, iam_endpoint: '{google.public_url}'}}",
        f"  athens: {{static_token: {{file: {directory / 'static'}}}}}",
        rules=rules,
    )
    upstream = (world.capture.address, CAPTURE, world.authority.certificate)
    with (
        world.sidecar(directory / "serve", config=config, command="serve") as serve,
        ForeignEnvoy(directory / "envoy", serve.ext_authz, upstream, ROUTES) as envoy,
    ):
        yield envoy


def ask(foreign: ForeignEnvoy, path: str, host: str = HOST, **headers: str):  # type: ignore[no-untyped-def]
    sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return send(foreign.forward, request_bytes("GET", path, host, sent))


def arrived(
    world: World, foreign: ForeignEnvoy, path: str, host: str = HOST, **headers: str
) -> RequestHead:
    """What the upstream got of a request that was let through."""
    before = len(world.capture.requests)
    ask(foreign, path, host, **headers)
    return world.capture.wait_for(before + 1)


@pytest.mark.parametrize(
    ("path", "audience", "robot"),
    [
        ("/", f"https://{HOST}", False),
        ("/audience", "from-the-route", False),
        ("/credential", f"https://{HOST}", True),
        ("/destination", "https://other.cold.localhost", False),
        ("/all", "all", True),
    ],
)
def test_the_routes_words_choose_audience_and_credential(
    world: World, foreign: ForeignEnvoy, path: str, audience: str, robot: bool
) -> None:
    request = arrived(world, foreign, path)
    claims = claims_of(world, request)
    assert claims["aud"] == audience
    assert (claims["email"] == ROBOT) == robot
    assert request.authority == HOST  # the other Envoy's route goes by it


def test_a_destination_of_the_route_gets_a_host_without_a_rule_its_token(
    world: World, foreign: ForeignEnvoy
) -> None:
    request = arrived(world, foreign, "/destination", "in-cluster")
    assert claims_of(world, request)["aud"] == "https://other.cold.localhost"
    assert arrived(world, foreign, "/", "in-cluster").values("authorization") == []


def test_request_headers_change_nothing(world: World, foreign: ForeignEnvoy) -> None:
    """Whatever a client calls them."""
    words = {"audience": "evil", "credential": "athens", "destination": ATHENS}
    words |= {"listener": "reverse"}
    prefixes = ("", "x-", "x_ext_authz_", "x_envoy_", "context_extensions_")
    headers = {prefix + name: value for prefix in prefixes for name, value in words.items()}
    claims = claims_of(world, arrived(world, foreign, "/", **headers))
    assert claims["aud"] == f"https://{HOST}"
    claims = claims_of(world, arrived(world, foreign, "/audience", **headers))
    assert claims["aud"] == "from-the-route"


def test_a_static_token_goes_only_where_its_own_rule_says(
    world: World, foreign: ForeignEnvoy
) -> None:
    assert arrived(world, foreign, "/", ATHENS).values("authorization") == [f"Bearer {STATIC}"]
    assert arrived(world, foreign, "/static", ATHENS).values("authorization") == [
        f"Bearer {STATIC}"
    ]
    before = len(world.capture.requests)
    assert verdict(ask(foreign, "/static")) == (500, "bad_override")
    assert len(world.capture.requests) == before


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/nobody", 500, "bad_override"),
        ("/metadata", 403, "destination_forbidden"),
        ("/listener", 500, "unknown_listener"),
    ],
)
def test_words_that_cannot_be_right_let_nothing_through(
    world: World, foreign: ForeignEnvoy, path: str, status: int, word: str
) -> None:
    before = len(world.capture.requests)
    assert verdict(ask(foreign, path)) == (status, word)
    assert len(world.capture.requests) == before


def test_an_inbound_serverless_header_never_arrives(world: World, foreign: ForeignEnvoy) -> None:
    request = arrived(world, foreign, "/", x_serverless_authorization="Bearer inbound")
    assert request.values("x-serverless-authorization") == []
    assert claims_of(world, request)["aud"] == f"https://{HOST}"
