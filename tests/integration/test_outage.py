"""When Google is away, slow or wrong: no bare request, and only what must fail fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from tests.support.ask import ask, error_of, verdict
from tests.support.polling import elapsed, until
from tests.support.raw import RawResponse
from tests.support.sidecar import Sidecar
from tests.support.world import World

FLOOD = 200
COLD_LIMIT_SECONDS = 5.0  # a source call takes at most 3 s, a Check at most 4
AT_ONCE_SECONDS = 0.5
ATTEMPTS_SECONDS = 6.0  # the first three back-offs: 1, 2 and 4 s

FAULTS = {
    "unreachable": Fault.reset(),
    "hangs up": Fault.close(),
    "stalls": Fault.stall(60),
    "trickles": Fault.trickle(1),
    "500": Fault.error(500),
    "503": Fault.error(503),
    "429": Fault.error(429, retry_after=7),
    "403": Fault.error(403),
    "404": Fault.error(404),
    "garbage": Fault.garbage(),
    "three junk segments": Fault.garbage("a.b.c"),
    "empty": Fault.garbage(b""),
    "huge": Fault.huge(),
    "redirect": Fault.redirect("http://127.0.0.1:1/"),
    "wrong audience": Fault.wrong_audience(),
    "expired": Fault.expired(),
    "no expiry": Fault.without_expiry(),
    "expiry as text": Fault.expiry_as_text(),
    "expiry beyond reason": Fault.claims(lambda claims: claims | {"exp": 10**20}),
}


def fetches(world: World, authority: str) -> int:
    """How often Google was asked for a token for this destination."""
    audience = f"https://{authority.partition(':')[0]}"
    asked = world.google.requests_of(IDENTITY)
    return sum(request.query.get("audience") == audience for request in asked)


def arrived(world: World, authority: str) -> int:
    """How many requests for this destination reached the private service."""
    return sum(one.header("host") == authority for one in world.service.requests)


def assert_unavailable(answer: RawResponse) -> None:
    """The answer is the documented 503."""
    assert verdict(answer) == (503, "token_unavailable")
    (seconds,) = answer.values("retry-after")
    assert 1 <= int(seconds) <= 60


@contextmanager
def google_down(world: World) -> Iterator[None]:
    """Refuse connections to Google for a while."""
    world.google.down()
    try:
        yield
    finally:
        world.google.up()


def test_200_concurrent_requests_to_a_cold_destination_cost_one_fetch(
    world: World, sidecar: Sidecar
) -> None:
    """All are answered, though the token takes a while."""
    authority = world.cold()
    world.google.fail(IDENTITY, Fault.stall(0.5))
    with ThreadPoolExecutor(FLOOD) as pool:
        urls = [f"http://{authority}/{number}" for number in range(FLOOD)]
        answers = list(pool.map(lambda url: ask(sidecar, url), urls))
    assert [answer.status for answer in answers] == [200] * FLOOD
    assert fetches(world, authority) == 1


def test_held_token_serves_while_google_is_down(world: World, sidecar: Sidecar) -> None:
    """No request fails before the token's margin."""
    url = f"http://{world.cold()}/"
    assert ask(sidecar, url).status == 200
    with google_down(world):
        assert [ask(sidecar, url).status for _ in range(20)] == [200] * 20


def test_token_serves_until_its_margin_and_not_beyond(world: World, sidecar: Sidecar) -> None:
    """No failed request before, 503 afterwards, and 200 again soon after Google is back."""
    url, shorter = f"http://{world.cold()}/", 64  # a token is not sent with less than 60 s left
    world.google.fail(
        IDENTITY, Fault.claims(lambda claims: claims | {"exp": claims["iat"] + shorter})
    )
    began = time.monotonic()
    assert ask(sidecar, url).status == 200
    world.google.heal()
    with google_down(world):
        while (answer := ask(sidecar, url)).status == 200:
            assert elapsed(began) < shorter - 60
            time.sleep(0.1)
        assert elapsed(began) > shorter - 60 - 1.5  # iat is in whole seconds
        assert_unavailable(answer)
    until(lambda: ask(sidecar, url).status == 200, ATTEMPTS_SECONDS, "it recovers")


def test_cold_destination_gets_503_while_google_is_down(world: World, sidecar: Sidecar) -> None:
    """With the sentence that says which credential, and at once when the failure is remembered."""
    authority = world.cold()
    with google_down(world):
        started = time.monotonic()
        first = ask(sidecar, f"http://{authority}/")
        assert elapsed(started) < COLD_LIMIT_SECONDS
        started = time.monotonic()
        second = ask(sidecar, f"http://{authority}/")
        assert elapsed(started) < AT_ONCE_SECONDS
    for answer in (first, second):
        assert_unavailable(answer)
        assert error_of(answer)["destination"] == authority
        assert "metadata server" in error_of(answer)["message"]
    assert arrived(world, authority) == 0


def test_destination_recovers_within_a_back_off(world: World, sidecar: Sidecar) -> None:
    """Nothing has to be restarted."""
    url = f"http://{world.cold()}/"
    with google_down(world):
        assert_unavailable(ask(sidecar, url))
    until(lambda: ask(sidecar, url).status == 200, ATTEMPTS_SECONDS, "it recovers")


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_issuer_gives_503_in_time_and_harms_no_other(
    world: World, sidecar: Sidecar, fault: str
) -> None:
    """A destination whose token cannot be had is refused; one with a token is served meanwhile."""
    warm, authority = f"http://{world.cold()}/", world.cold()
    assert ask(sidecar, warm).status == 200
    world.google.fail(IDENTITY, FAULTS[fault])
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        cold = pool.submit(ask, sidecar, f"http://{authority}/")
        while not cold.done():
            asked = time.monotonic()
            assert ask(sidecar, warm).status == 200
            assert elapsed(asked) < AT_ONCE_SECONDS
            time.sleep(0.1)
    assert elapsed(started) < COLD_LIMIT_SECONDS
    assert_unavailable(cold.result())
    assert arrived(world, authority) == 0


def test_asked_for_pause_is_kept(world: World, sidecar: Sidecar) -> None:
    """429 with Retry-After: 7 means no further call for seven seconds, and says so to the app."""
    authority = world.cold()
    world.google.fail(IDENTITY, Fault.error(429, retry_after=7))
    answers = [ask(sidecar, f"http://{authority}/") for _ in range(5)]
    assert {int(answer.values("retry-after")[0]) for answer in answers} <= {6, 7}
    assert fetches(world, authority) == 1


def test_slow_token_serves_all_that_wait_for_it(world: World, sidecar: Sidecar) -> None:
    """A source that takes two seconds is slow and not away."""
    authority = world.cold()
    world.google.fail(IDENTITY, Fault.stall(2.0), times=1)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(sidecar, f"http://{authority}/"), range(2)))
    assert [answer.status for answer in answers] == [200, 200]
    assert fetches(world, authority) == 1
