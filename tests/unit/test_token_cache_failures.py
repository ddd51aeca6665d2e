"""The cache's memory of failures: back-off, Retry-After, and a good token kept through it all."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from ext_authz.errors import SourceError, TokenUnavailableError
from ext_authz.token_cache import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    PERMANENT_BACKOFF_SECONDS,
)
from ext_authz.tokens import SAFETY_MARGIN_SECONDS, Fetched, TokenKey
from tests.unit.fakes import KEY, World, settle


class Source:
    """Answers at once: with `error` while it is set, else with a token of `life` seconds."""

    def __init__(self) -> None:
        self.error: SourceError | None = SourceError("down", code="source_unreachable")
        self.life = 3600.0
        self.text = ""
        self.mints_anew = True
        self.world: World | None = None

    def __call__(self, key: TokenKey) -> Fetched:
        if self.error is not None:
            raise self.error
        assert self.world is not None
        return Fetched(self.text or self.world.token(self.life), mints_anew=self.mints_anew)


def made(*, jitter: float = 0.5) -> tuple[World, Source]:
    source = Source()
    source.world = World(source, jitter=jitter)
    return source.world, source


async def refused(world: World) -> TokenUnavailableError:
    with pytest.raises(TokenUnavailableError) as caught:
        await world.cache.get(KEY)
    return caught.value


async def backoff(world: World) -> float:
    """Fail once and return after how many seconds the source is asked again."""
    before = world.fetches
    wait = (await refused(world)).retry_after_seconds
    assert world.fetches == before + 1
    world.clock.advance(wait - 0.01)
    await refused(world)
    assert world.fetches == before + 1
    world.clock.advance(0.02)
    return wait


async def test_a_failure_is_remembered_and_each_request_gets_it_at_once() -> None:
    world, _ = made()
    errors = [await refused(world) for _ in range(500)]
    assert world.fetches == 1
    assert {(error.message, error.reason) for error in errors} == {("down", "source_unreachable")}
    assert errors[-1].code == "token_unavailable"


async def test_the_backoff_doubles_up_to_its_longest_and_a_success_resets_it() -> None:
    world, source = made()
    waits = [await backoff(world) for _ in range(8)]
    doubled = [min(FIRST_BACKOFF_SECONDS * 2**n, LONGEST_BACKOFF_SECONDS) for n in range(8)]
    assert waits == pytest.approx(doubled)
    error, source.error = source.error, None
    await world.cache.get(KEY)
    source.error = error
    world.clock.advance(3600)
    assert await backoff(world) == pytest.approx(FIRST_BACKOFF_SECONDS)


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
async def test_jitter_spreads_the_backoff_by_a_tenth(jitter: float, factor: float) -> None:
    world, _ = made(jitter=jitter)
    assert await backoff(world) == pytest.approx(FIRST_BACKOFF_SECONDS * factor)


@pytest.mark.parametrize(
    ("asked", "waited"), [(7.0, 7.0), (0.1, 1.0), (10_000.0, LONGEST_RETRY_AFTER_SECONDS)]
)
async def test_retry_after_is_obeyed_within_bounds(asked: float, waited: float) -> None:
    world, source = made()
    source.error = SourceError("busy", code="source_refused", retry_after_seconds=asked)
    assert await backoff(world) == pytest.approx(waited)


async def test_a_permanent_failure_waits_long_from_the_start_and_does_not_double() -> None:
    world, source = made()
    source.error = SourceError("no permission", code="source_refused", permanent=True)
    waits = [await backoff(world) for _ in range(3)]
    assert waits == pytest.approx([PERMANENT_BACKOFF_SECONDS] * 3)


async def test_the_clock_going_back_does_not_lengthen_a_backoff() -> None:
    world, _ = made()
    await refused(world)
    world.clock.jump(-7200)
    world.clock.advance(FIRST_BACKOFF_SECONDS + 0.01)
    await refused(world)
    assert world.fetches == 2


async def test_google_gone_for_an_hour_fails_no_request_before_the_margin_and_recovers_after() -> (
    None
):
    world, source = made()
    source.error = None
    token = await world.cache.get(KEY)
    source.error = SourceError("gone", code="source_unreachable")
    while world.clock.wall < token.expires_at - SAFETY_MARGIN_SECONDS - 1:
        world.refresh_what_is_due()
        await settle()
        assert await world.cache.get(KEY) is token
        world.clock.advance(1)
    assert world.fetches < 1 + 1800 / (LONGEST_BACKOFF_SECONDS * 0.9) + 10
    world.clock.advance(2)
    await refused(world)
    source.error = None
    world.clock.advance(LONGEST_BACKOFF_SECONDS * 1.1)
    assert (await world.cache.get(KEY)).expires_at > token.expires_at


async def test_a_token_handed_back_unchanged_is_kept_and_asked_about_once_per_backoff() -> None:
    world, source = made()
    source.error, source.mints_anew = None, False
    source.text = text = world.token(240)
    assert (await world.cache.get(KEY)).text == text
    waits = []
    last = 1
    for _ in range(170 * 10):
        world.clock.advance(0.1)
        assert (await world.cache.get(KEY)).text == text
        await settle()
        if world.fetches > last:
            waits.append(world.clock.elapsed)
            last = world.fetches
    gaps = [later - sooner for sooner, later in itertools.pairwise(waits)]
    assert gaps[:5] == pytest.approx([1, 2, 4, 8, 16], abs=0.21)
    assert set(world.outcomes) == {"ok", "token_not_newer"}


async def test_a_cold_expired_key_does_not_spin_when_the_source_repeats_itself() -> None:
    world, source = made()
    source.error, source.text = None, world.token(240)
    await world.cache.get(KEY)
    world.clock.advance(190)
    for _ in range(100):
        await refused(world)
    assert world.fetches == 2
    assert world.outcomes[-1] == "token_rejected"


async def test_a_good_token_is_not_replaced_by_one_that_ends_sooner() -> None:
    world, source = made()
    source.error = None
    held = await world.cache.get(KEY)
    world.clock.advance(1900)
    source.life = 120
    await world.cache.get(KEY)
    await settle()
    assert world.outcomes[-1] == "token_not_newer"
    assert (await world.cache.get(KEY)).text == held.text


async def test_a_rejected_token_never_replaces_the_one_held() -> None:
    world, source = made()
    source.error = None
    held = await world.cache.get(KEY)
    world.clock.advance(1900)
    source.text = world.token(audience="https://someone-else.example")
    await world.cache.get(KEY)
    await settle()
    assert world.outcomes[-1] == "token_rejected"
    assert await world.cache.get(KEY) is held


async def test_the_waiter_gets_the_failure_of_the_fetch_it_waited_for() -> None:
    world = World()
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.fetch.fail(SourceError("403 from IAM", code="source_refused", permanent=True))
    with pytest.raises(TokenUnavailableError) as caught:
        await waiter
    assert (caught.value.message, caught.value.reason) == ("403 from IAM", "source_refused")
    assert caught.value.retry_after_seconds == pytest.approx(PERMANENT_BACKOFF_SECONDS)
