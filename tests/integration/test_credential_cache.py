"""Envoy's workers repeat an answer for a few seconds, and nobody upstream can tell."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext_authz.errors import SourceError
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from ext_authz.tokens import SAFETY_MARGIN_SECONDS, unverified_claims
from tests.conftest import StartSidecar
from tests.support.ask import ask, ask_grpc, request_bytes, send, verdict
from tests.support.messages import CapturedRequest, Headers, Reply
from tests.support.polling import until
from tests.support.raw import RawConnection
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Sidecar
from tests.support.tunnels import ask_connect
from tests.support.world import World

ONE_WORKER = "--concurrency=1"
NO_CACHE = "--no-credential-cache"
CACHE_SECONDS = 10.0  # the most that the service ever allows
LATEST_SECONDS = CACHE_SECONDS + 2.0
OWN = ("Authorization", "Bearer of-the-app")
FORGED = ("X-Serverless-Authorization", "Bearer forged")
PROXY = ("Proxy-Authorization", "Basic eDp5")
HEADER_SETS: dict[str, Headers] = {
    "none": (),
    "own authorization": (OWN,),
    "own authorization, empty": (("Authorization", ""),),
    "own authorization twice": (OWN, ("authorization", "Basic eDp5")),
    "forged": (FORGED,),
    "forged twice": (FORGED, FORGED),
    "own and forged": (OWN, FORGED, FORGED),
    "proxy's": (PROXY,),
    "all": (OWN, FORGED, PROXY),
    "protocol": (("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "192.0.2.1")),
    "as if from Envoy": (
        ("credential_cache.hit", "hit"),
        ("X-Idtoken-Sidecar-Forwarded-Proto", "x"),
    ),
}


def checks(sidecar: Sidecar) -> int:
    """How many Checks the service has answered."""
    lines = sidecar.get_status("/metrics")[1].splitlines()
    counted = [line for line in lines if line.startswith("idtoken_sidecar_checks_total{")]
    return round(sum(float(line.rpartition(" ")[2]) for line in counted))


def plain(request: CapturedRequest) -> tuple[Any, ...]:
    """All that came, whatever the order of headers."""
    return (request.version, request.method, request.target, sorted(request.headers), request.body)


def served_twice(
    sidecar: Sidecar, world: World, make: Callable[[], object]
) -> list[CapturedRequest]:
    """Make a request that the service is asked for and one that it is not; give what arrived."""
    found = []
    for expected in (1, 0):
        before, arrived = checks(sidecar), len(world.capture.requests)
        make()
        found.append(world.capture.wait_for(arrived + 1))
        assert checks(sidecar) - before == expected
    return found


@pytest.fixture(scope="module")
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One worker, so that every count is exact; it reverses to the recording upstream."""
    upstream = f"--upstream=https://{world.capture_authority}"
    directory = tmp_path_factory.mktemp("cached")
    with world.sidecar(directory, ONE_WORKER, upstream, "--access-log") as found:
        yield found


@pytest.fixture
def host(world: World) -> str:
    """`host:port` of the recording upstream under a name that no entry can have yet."""
    return f"{world.cold().partition(':')[0]}:{world.capture.port}"


def test_a_hundred_requests_are_one_check(shared: Sidecar, world: World, host: str) -> None:
    before, arrived = checks(shared), len(world.capture.requests)
    for _ in range(100):
        assert ask(shared, f"http://{host}/").status == 200
    # One, and one more if the hundred took longer than an entry is kept.
    assert checks(shared) - before in (1, 2)
    credentials = [one.values("authorization") for one in world.capture.requests[arrived:]]
    assert len(credentials) == 100
    assert all(len(one) == 1 and one == credentials[0] for one in credentials)


@pytest.mark.parametrize("name", HEADER_SETS)
@pytest.mark.parametrize("listener", ["forward", "reverse"])
def test_the_upstream_cannot_tell(
    shared: Sidecar, world: World, host: str, listener: str, name: str
) -> None:
    def make() -> None:
        target = f"http://{host}/echo?x=%2F" if listener == "forward" else "/echo?x=%2F"
        request = request_bytes("POST", target, host, HEADER_SETS[name], b"body")
        address = shared.forward if listener == "forward" else shared.reverse
        assert send(address, request).body == b"body"

    asked, cached = served_twice(shared, world, make)
    assert plain(asked) == plain(cached)
    assert "Bearer forged" not in str(cached.headers)


@pytest.mark.parametrize("name", HEADER_SETS)
def test_the_upstream_cannot_tell_over_http2(
    shared: Sidecar, world: World, host: str, name: str
) -> None:
    headers = tuple((key.lower(), value) for key, value in HEADER_SETS[name])

    def make() -> None:
        with H2Client(shared.forward, timeout_seconds=15.0) as client:
            assert client.request(request_headers("GET", host, "/", *headers)).status == 200

    asked, cached = served_twice(shared, world, make)
    assert plain(asked) == plain(cached)


def test_an_http1_upstream_cannot_tell_either(shared: Sidecar, world: World) -> None:
    authority = f"h1.localhost:{world.capture_h1.port}"
    found = []
    for _ in range(2):
        arrived = len(world.capture_h1.requests)
        headers = (("X-Mixed-Case", "1"), FORGED)
        assert ask(shared, f"http://{authority}/", headers=headers).status == 200
        found.append(world.capture_h1.wait_for(arrived + 1))
    asked, cached = found
    assert sorted(asked.raw_head.split(b"\r\n")) == sorted(cached.raw_head.split(b"\r\n"))


def test_grpc_is_served_from_the_cache(shared: Sidecar, world: World, host: str) -> None:
    asked, cached = served_twice(
        shared, world, lambda: ask_grpc(shared, host).trailers or pytest.fail("no trailers")
    )
    assert plain(asked) == plain(cached)


def test_websockets_are_served_from_the_cache(shared: Sidecar, world: World, host: str) -> None:
    upgrade = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )

    def make() -> None:
        with RawConnection(shared.forward) as connection:
            url = f"http://{host}/websocket"
            connection.send(request_bytes("GET", url, host, upgrade))
            assert connection.read_response().status == 101

    asked, cached = served_twice(shared, world, make)
    assert plain(asked) == plain(cached)
    assert cached.connection.alpn == "http/1.1"


def test_a_connect_is_never_served_from_the_cache(shared: Sidecar, world: World, host: str) -> None:
    ask(shared, f"http://{host}/")
    for _ in range(2):
        before = checks(shared)
        assert ask_connect(shared.forward, host).status == 200
        assert checks(shared) - before == 1
    before = checks(shared)
    ask(shared, f"http://{host}/")
    assert checks(shared) == before


def test_listeners_share_no_entry(shared: Sidecar, world: World) -> None:
    """The same Host means another destination to the reverse proxy."""
    for first in ("forward", "reverse"):
        name = world.cold()  # the private service, which the reverse proxy does not lead to
        for listener in (first, "forward", "reverse"):
            arrived = len(world.capture.requests)
            if listener == "forward":
                assert ask(shared, f"http://{name}/").status == 200
                assert len(world.capture.requests) == arrived
            else:
                assert send(shared.reverse, request_bytes("GET", "/", name)).status == 200
                assert world.capture.wait_for(arrived + 1).authority == world.capture_authority


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_a_connection_carries_no_mark_to_its_next_request(
    shared: Sidecar, world: World, protocol: str
) -> None:
    """What one request was given must not reach another destination on the same connection."""
    hosts = [f"{world.cold().partition(':')[0]}:{world.capture.port}" for _ in range(2)]
    others = f"plain.localhost:{world.plain.port}"
    h1, h2 = RawConnection(shared.forward), H2Client(shared.forward, timeout_seconds=15.0)
    with h1 as connection, h2 as client:
        for host in (hosts[0], hosts[0], hosts[1], hosts[0], others, hosts[1], others):
            server = world.plain if host == others else world.capture
            arrived = len(server.requests)
            if protocol == "h1":
                connection.send(request_bytes("GET", f"http://{host}/", host)).read_response()
            else:
                client.request(request_headers("GET", host, "/"))
            seen = server.wait_for(arrived + 1)
            audiences = [
                unverified_claims(value.removeprefix("Bearer "))["aud"]
                for value in seen.values("authorization")
            ]
            assert seen.authority == host
            assert audiences == ([] if host == others else [f"https://{host.partition(':')[0]}"])


@pytest.mark.parametrize("how", ["flag", "file", "environment"])
def test_off_means_that_every_request_asks(
    world: World, start_sidecar: StartSidecar, tmp_path: Path, how: str
) -> None:
    config = world.config("tokens: {credential_cache: false}") if how == "file" else None
    flags = (ONE_WORKER, NO_CACHE) if how == "flag" else (ONE_WORKER,)
    made = world.sidecar(tmp_path / "off", *flags, config=config)
    if how == "environment":
        made.environ["IDTOKEN_SIDECAR_CREDENTIAL_CACHE"] = "false"
    with made as own:
        before = checks(own)
        for _ in range(5):
            assert ask(own, f"{world.capture_url}/").status == 200
        assert checks(own) - before == 5


def test_a_reload_takes_effect_within_the_time_to_live(
    world: World, start_sidecar: StartSidecar
) -> None:
    own = start_sidecar(ONE_WORKER)
    assert ask(own, f"{world.capture_url}/").status == 200
    other = world.config("other_destinations: deny", rules=['{match: "*.run.app"}'])
    started = time.monotonic()
    own.reload(other)
    # Requests all the time: an entry that is used lives no longer than one that is not.
    refused = until(
        lambda: ask(own, f"{world.capture_url}/").status == 403, LATEST_SECONDS, "it is refused"
    )
    assert refused
    assert time.monotonic() - started < LATEST_SECONDS
    assert verdict(ask(own, f"{world.capture_url}/"))[0] == 403


def test_no_token_shows_outside_the_worker(shared: Sidecar, world: World, host: str) -> None:
    arrived = len(world.capture.requests)
    for headers in ((), (OWN,), ()):
        ask(shared, f"http://{host}/", headers=headers)
    tokens = {
        value.removeprefix("Bearer ")
        for one in world.capture.requests[arrived:]
        for name in ("authorization", "x-serverless-authorization")
        for value in one.values(name)
        if value != OWN[1]
    }
    assert tokens
    pages = [
        shared.get_admin(page) for page in ("/config_dump", "/stats", "/clusters", "/listeners")
    ]
    shown = "".join(pages) + shared.logs() + shared.get_status("/metrics")[1]
    assert not [token for token in tokens if token.split(".")[2] in shown]


def test_the_script_had_no_error(shared: Sidecar) -> None:
    """Runs last: Envoy counts the errors of every script."""
    errors = re.findall(r"^\S*lua\S*errors: (\d+)$", shared.get_admin("/stats"), re.MULTILINE)
    assert errors
    assert set(errors) == {"0"}


# ------------------------------------------------------------- the same with and without the cache
@pytest.fixture(scope="module")
def pair(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sidecar, Sidecar]]:
    """Two sidecars that differ in the cache alone; answers may be repeated for 2 s."""
    life = SAFETY_MARGIN_SECONDS + 3
    world.google.fail(
        IDENTITY, Fault.claims(lambda claims: claims | {"exp": int(time.time() + life)})
    )
    directory, upstream = (
        tmp_path_factory.mktemp("pair"),
        f"--upstream=https://{world.capture_authority}",
    )
    with (
        world.sidecar(directory / "on", ONE_WORKER, upstream) as on,
        world.sidecar(directory / "off", ONE_WORKER, upstream, NO_CACHE) as off,
    ):
        yield on, off
    world.google.heal()


REQUESTS = st.fixed_dictionaries(
    {
        "listener": st.sampled_from(["forward", "reverse"]),
        "host": st.sampled_from(["a", "b", "c"]),
        "spelling": st.sampled_from([str, str.upper]),
        "headers": st.sets(st.sampled_from([OWN, FORGED, PROXY])).map(sorted),
        "path": st.sampled_from(["/", "/", "/", "/unauthorized", "/away"]),
        "pause": st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.1]),
    }
)


def outcome(world: World, sidecar: Sidecar, call: dict[str, Any]) -> tuple[Any, ...]:
    """Make one call; give what the client and the upstream saw, tokens by what they claim."""
    host = f"{call['spelling'](call['host'])}.cold.localhost:{world.capture.port}"
    arrived = len(world.capture.requests)
    forward = call["listener"] == "forward"
    target = f"http://{host}{call['path']}" if forward else call["path"]
    request = request_bytes("GET", target, host, call["headers"])
    answer = send(sidecar.forward if forward else sidecar.reverse, request)
    if len(world.capture.requests) == arrived:
        return answer.status, answer.body
    seen = world.capture.wait_for(arrived + 1)
    headers = []
    for name, value in seen.headers:
        with suppress(SourceError):
            claims = unverified_claims(value.removeprefix("Bearer "))
            assert claims["aud"] == f"https://{(seen.authority or '').partition(':')[0]}"
            assert claims["exp"] - time.time() > SAFETY_MARGIN_SECONDS - 3
            value = f"token for {claims['aud']}"  # noqa: PLW2901
        headers.append((name, value))
    return answer.status, answer.values("location"), seen.target, sorted(headers)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=st.lists(REQUESTS, min_size=1, max_size=10))
def test_any_sequence_ends_as_without_the_cache(
    world: World, pair: tuple[Sidecar, Sidecar], calls: list[dict[str, Any]]
) -> None:
    world.capture.script(
        "/away", Reply(status=302, headers=(("location", f"https://{world.capture_authority}/x"),))
    )
    on, off = pair
    for call in calls:
        assert outcome(world, on, call) == outcome(world, off, call)
        time.sleep(call["pause"])
