"""The cache: its story in five acts, one fetch for everybody, and what is remembered."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz.errors import SourceError, TokenUnavailableError
from ext_authz.token_cache import MAX_FETCHES
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import KEY, World, settle

DOWN = SourceError("the metadata server is down", code="source_unreachable")


async def warm(world: World, life: float = 3600, *, mints_anew: bool = True) -> str:
    """Put a token into the cache and return it."""
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    text = world.token(life)
    await world.fetch.hand_over(text, mints_anew=mints_anew)
    assert (await waiter).text == text
    return text


async def refused(world: World, key: TokenKey = KEY) -> TokenUnavailableError:
    with pytest.raises(TokenUnavailableError) as caught:
        await world.cache.get(key)
    return caught.value


async def test_the_story_in_five_acts() -> None:
    world = World()

    # 1. Empty, and the source fails: an error.
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.fetch.fail(DOWN)
    with pytest.raises(TokenUnavailableError, match="the metadata server is down"):
        await waiter

    # 2. The source is back: the token is fetched, kept, and not fetched again.
    world.clock.advance(2)
    first = await warm(world)
    for _ in range(3):
        world.clock.advance(60)
        assert (await world.cache.get(KEY)).text == first
    assert world.fetches == 2

    # 3. Nearly expired: the old one is served while a newer one is fetched, and then replaced.
    world.clock.advance(1800)
    assert (await world.cache.get(KEY)).text == first
    await settle()
    assert world.fetches == 3
    second = world.token()
    await world.fetch.hand_over(second)
    assert (await world.cache.get(KEY)).text == second

    # 4. The refresh fails: the old one goes on being served.
    world.clock.advance(2400)
    await world.cache.get(KEY)
    await settle()
    await world.fetch.fail(DOWN)
    assert (await world.cache.get(KEY)).text == second
    assert world.fetches == 4

    # 5. Expired, and the source still fails: an error again, never the old token.
    world.clock.advance(1200)
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.fetch.fail(DOWN)
    with pytest.raises(TokenUnavailableError):
        await waiter
    assert world.outcomes == ["source_unreachable", "ok", "ok", *["source_unreachable"] * 2]


async def test_a_thousand_cold_requests_cost_one_fetch() -> None:
    world = World()
    waiters = [asyncio.create_task(world.cache.get(KEY)) for _ in range(1000)]
    await settle()
    text = world.token()
    await world.fetch.hand_over(text)
    assert {token.text for token in await asyncio.gather(*waiters)} == {text}
    assert world.fetches == 1


async def test_a_thousand_cold_requests_share_one_failure() -> None:
    world = World()
    waiters = [asyncio.create_task(world.cache.get(KEY)) for _ in range(1000)]
    await settle()
    await world.fetch.fail(DOWN)
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert {type(result) for result in results} == {TokenUnavailableError}
    assert world.fetches == 1


async def test_a_cancelled_request_does_not_cancel_the_fetch_that_others_wait_for() -> None:
    world = World()
    leader, follower = (asyncio.create_task(world.cache.get(KEY)) for _ in range(2))
    await settle()
    leader.cancel()
    await settle()
    text = world.token()
    await world.fetch.hand_over(text)
    assert (await follower).text == text
    assert leader.cancelled()
    assert world.fetches == 1


async def test_a_fetch_whose_only_request_went_away_still_fills_the_cache() -> None:
    world = World()
    alone = asyncio.create_task(world.cache.get(KEY))
    await settle()
    alone.cancel()
    await settle()
    text = world.token()
    await world.fetch.hand_over(text)
    assert (await world.cache.get(KEY)).text == text
    assert world.fetches == 1


async def test_a_cold_request_waits_only_so_long_and_the_late_token_serves_the_next() -> None:
    world = World()
    with pytest.raises(TokenUnavailableError, match="gave no answer within") as caught:
        await world.cache.get(KEY, wait_seconds=0)
    assert caught.value.reason == "source_slow"
    await settle()
    text = world.token()
    await world.fetch.hand_over(text)
    assert (await world.cache.get(KEY)).text == text
    assert world.fetches == 1


async def test_one_slow_destination_does_not_delay_another() -> None:
    world = World()
    slow = asyncio.create_task(world.cache.get(KEY))
    await settle()
    other = TokenKey("default", "https://other.run.app")
    quick = asyncio.create_task(world.cache.get(other))
    await settle()
    world.fetch.running.pop(1).set_result(Fetched(world.token(audience=other.audience)))
    assert (await quick).expires_at
    assert not slow.done()
    slow.cancel()
    await world.cache.close()


async def test_more_than_max_fetches_at_once_are_refused_at_once() -> None:
    world = World()
    keys = [TokenKey("default", f"https://a{number}.run.app") for number in range(MAX_FETCHES + 1)]
    waiters = [asyncio.create_task(world.cache.get(key)) for key in keys]
    await settle()
    assert world.fetches == MAX_FETCHES
    with pytest.raises(TokenUnavailableError) as caught:
        await waiters[-1]
    assert caught.value.reason == "too_many_fetches"
    for waiter in waiters:
        waiter.cancel()
    await world.cache.close()


async def test_closing_ends_what_is_in_flight() -> None:
    world = World()
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.cache.close()
    with pytest.raises(TokenUnavailableError):
        await waiter
    assert world.fetch.running[0].cancelled()


async def test_peek_never_fetches_for_a_key_it_does_not_hold() -> None:
    world = World()
    assert world.cache.peek(KEY) is None
    await settle()
    assert world.fetches == 0
    assert len(world.cache) == 0


async def test_an_exception_that_no_source_should_raise_counts_as_a_failure() -> None:
    world = World()
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.fetch.fail(ZeroDivisionError("foreign text"))
    with pytest.raises(TokenUnavailableError) as caught:
        await waiter
    assert "foreign text" not in str(caught.value)
    assert "in flight" not in str(caught.value)
    await refused(world)
    assert world.fetches == 1
    assert len(world.outcomes) == 1


async def test_a_token_with_a_monstrous_expiry_counts_as_a_failure() -> None:
    world = World()
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    await world.fetch.hand_over(world.token(exp=10**400))
    with pytest.raises(TokenUnavailableError) as caught:
        await waiter
    assert caught.value.reason == "token_rejected"
