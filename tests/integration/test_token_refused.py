"""An upstream's 401 `invalid_token` drops the token that was sent, and only that."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from tests.conftest import StartSidecar
from tests.support.ask import ask, request_bytes, send
from tests.support.messages import Headers, Reply
from tests.support.polling import elapsed
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Sidecar
from tests.support.world import World

ONE_WORKER = "--concurrency=1"
NO_CACHE = "--no-credential-cache"
OWN: Headers = (("Authorization", "Bearer of-the-app"),)
AT_ONCE_SECONDS = 2.0
FORBIDDEN = Reply(status=403, headers=(("www-authenticate", 'Bearer error="insufficient_scope"'),))
OTHER_401 = Reply(status=401, headers=(("www-authenticate", 'Bearer realm="the app"'),))
REALM = 'Bearer realm="x", error="invalid_token", error_description="expired"'
LONG_401 = Reply(status=401, headers=(("www-authenticate", REALM),), body=b"sign in")


@pytest.fixture(scope="module", params=["cached", "uncached"])
def shared(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """One worker, with the credential cache and without."""
    flags = [ONE_WORKER] if request.param == "cached" else [ONE_WORKER, NO_CACHE]
    world.capture.script("/forbidden", FORBIDDEN)
    world.capture.script("/other-401", OTHER_401)
    world.capture.script("/long-401", LONG_401)
    with world.sidecar(tmp_path_factory.mktemp(request.param), *flags) as found:
        yield found


@pytest.fixture(autouse=True)
def _each_token_is_another(world: World) -> None:
    """Google mints each time anew, also twice within a second (RS256 gives no two signatures)."""
    numbers = itertools.count()
    number_each = Fault.claims(lambda claims: claims | {"jti": str(next(numbers))})
    world.google.fail(IDENTITY, number_each)


@pytest.fixture
def host(world: World) -> str:
    """`host:port` of the recording upstream under a name without history."""
    return f"{world.cold().partition(':')[0]}:{world.capture.port}"


def sent(world: World, sidecar: Sidecar, url: str, headers: Headers = ()) -> tuple[int, str]:
    """The answer's status and the credential that arrived."""
    arrived = len(world.capture.requests)
    status = ask(sidecar, url, headers=headers).status
    seen = world.capture.wait_for(arrived + 1)
    name = "x-serverless-authorization" if headers else "authorization"
    return status, seen.values(name)[0]


def fetches(world: World, host: str) -> int:
    """How often Google was asked for this destination's token."""
    audience = f"https://{host.partition(':')[0]}"
    asked = world.google.requests_of(IDENTITY)
    return sum(one.query.get("audience") == audience for one in asked)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process hang for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_next_request_has_another_token(
    shared: Sidecar, world: World, host: str, before: int
) -> None:
    for _ in range(before):  # the refused one asks the service, or is served from the cache
        sent(world, shared, f"http://{host}/")
    status, refused = sent(world, shared, f"http://{host}/unauthorized")
    assert status == 401
    status, fresh = sent(world, shared, f"http://{host}/")
    assert status == 200
    assert fresh != refused
    assert sent(world, shared, f"http://{host}/") == (200, fresh)
    assert fetches(world, host) == 2


def test_the_token_is_dropped_in_whatever_header_it_went(
    shared: Sidecar, world: World, host: str
) -> None:
    token = sent(world, shared, f"http://{host}/")[1]
    assert sent(world, shared, f"http://{host}/", OWN) == (200, token)
    assert sent(world, shared, f"http://{host}/unauthorized") == (401, token)
    fresh = sent(world, shared, f"http://{host}/", OWN)[1]
    assert fresh != token
    assert sent(world, shared, f"http://{host}/")[1] == fresh


def test_the_refusal_is_passed_on_whole(shared: Sidecar, world: World, host: str) -> None:
    for _ in range(2):
        answer = ask(shared, f"http://{host}/long-401")
        assert (answer.status, answer.body) == (401, b"sign in")
        assert answer.values("www-authenticate") == [REALM]


def test_it_is_noticed_over_http2_and_in_reverse(world: World, start_sidecar: StartSidecar) -> None:
    own = start_sidecar(ONE_WORKER, f"--upstream=https://{world.capture_authority}")
    found = []
    for path in ("/", "/unauthorized", "/"):
        arrived = len(world.capture.requests)
        with H2Client(own.forward, timeout_seconds=15.0) as client:
            client.request(request_headers("GET", world.capture_authority, path))
        found.append(world.capture.wait_for(arrived + 1).values("authorization"))
    assert found[0] == found[1] != found[2]
    time.sleep(2.1)  # minting anew is not done again within its back-off
    for path in ("/", "/unauthorized", "/"):
        arrived = len(world.capture.requests)
        send(own.reverse, request_bytes("GET", path, "any"))
        found.append(world.capture.wait_for(arrived + 1).values("authorization"))
    assert found[2] == found[3] == found[4] != found[5]


@pytest.mark.parametrize("path", ["/forbidden", "/other-401"])
def test_other_refusals_drop_nothing(shared: Sidecar, world: World, host: str, path: str) -> None:
    token = sent(world, shared, f"http://{host}/")[1]
    for _ in range(2):
        assert sent(world, shared, f"http://{host}{path}")[1] == token
    assert sent(world, shared, f"http://{host}/")[1] == token
    assert fetches(world, host) == 1


def test_another_destinations_token_stays(shared: Sidecar, world: World, host: str) -> None:
    other = f"{world.cold().partition(':')[0]}:{world.capture.port}"
    token = sent(world, shared, f"http://{other}/")[1]
    sent(world, shared, f"http://{host}/unauthorized")
    assert sent(world, shared, f"http://{other}/")[1] == token
    assert fetches(world, other) == 1


def test_a_destination_that_always_refuses_does_not_make_a_storm(
    shared: Sidecar, world: World, host: str
) -> None:
    for _ in range(30):
        assert sent(world, shared, f"http://{host}/unauthorized")[0] == 401
    assert fetches(world, host) <= 3


def test_a_hung_service_does_not_hold_the_refusal_up(
    world: World, start_sidecar: StartSidecar
) -> None:
    own = start_sidecar(ONE_WORKER)
    assert ask(own, f"{world.capture_url}/").status == 200
    with stopped(own.process.pid):
        started = time.monotonic()
        assert ask(own, f"{world.capture_url}/unauthorized").status == 401
        assert elapsed(started) < AT_ONCE_SECONDS
