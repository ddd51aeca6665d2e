"""Which keys the cache keeps, drops and renews, and what the clocks do to them."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz.errors import TokenUnavailableError
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import KEY, World, settle


def minting(*, life: float = 3600, max_keys: int = 10_000) -> World:
    """Return a cache whose source mints at once."""

    def mint(key: TokenKey) -> Fetched:
        return Fetched(world.token(life, key.audience))

    world = World(mint, max_keys=max_keys)
    return world


def key_of(number: int) -> TokenKey:
    return TokenKey("default", f"https://s{number}.run.app")


async def test_ten_thousand_keys_are_kept_and_the_least_recently_used_goes_first() -> None:
    world = World(lambda key: Fetched("text", recheck_seconds=1e6))  # quicker to make than a JWT
    for number in range(10_000):
        await world.cache.get(key_of(number))
    await world.cache.get(key_of(0))
    for number in range(10_000, 10_050):
        await world.cache.get(key_of(number))
    assert len(world.cache) == 10_000
    assert world.fetches == 10_050
    assert world.cache.peek(key_of(0)) is not None
    assert world.cache.peek(key_of(1)) is None
    assert world.cache.peek(key_of(51)) is not None


async def test_a_key_used_within_its_tokens_life_is_refreshed_ahead() -> None:
    world = minting()
    first = await world.cache.get(KEY)
    world.clock.advance(1900)
    world.refresh_what_is_due()
    await settle()
    second = world.cache.peek(KEY)
    assert second is not None
    assert second.expires_at > first.expires_at


async def test_an_idle_key_is_dropped_after_one_life_and_not_refreshed_for_ever() -> None:
    world = minting()
    await world.cache.get(KEY)
    for _ in range(40):
        world.clock.advance(400)
        world.refresh_what_is_due()
        await settle()
    assert len(world.cache) == 0
    assert world.fetches <= 4


async def test_a_key_that_never_had_a_token_is_forgotten_too() -> None:
    world = World()
    with pytest.raises(TokenUnavailableError):
        await world.cache.get(KEY, wait_seconds=0)
    await settle()
    await world.fetch.hand_over("no token at all")
    assert len(world.cache) == 1
    world.clock.advance(600)
    assert world.cache.due() == []
    assert len(world.cache) == 0


async def test_a_key_in_use_is_never_dropped() -> None:
    world = minting()
    for _ in range(100):
        await world.cache.get(KEY)
        world.clock.advance(300)
        world.refresh_what_is_due()
        await settle()
    assert len(world.cache) == 1


async def test_refusing_forgets_only_the_token_with_that_fingerprint() -> None:
    world = minting()
    old, other = await world.cache.get(KEY), await world.cache.get(key_of(1))
    assert world.cache.refuse("0" * 32) is None
    assert world.cache.peek(KEY) is old
    assert world.cache.refuse(old.fingerprint) == KEY
    assert world.cache.peek(KEY) is None
    assert world.cache.peek(key_of(1)) is other
    world.clock.advance(1)
    new = await world.cache.get(KEY)
    assert world.cache.refuse(old.fingerprint) is None
    assert world.cache.peek(KEY) is new


async def test_a_destination_that_refuses_every_token_costs_one_fetch_per_backoff() -> None:
    world = minting()
    for _ in range(600):
        token = await world.cache.get(KEY)
        world.cache.refuse(token.fingerprint)
        world.clock.advance(0.1)
    assert world.fetches <= 8


async def test_a_refusal_long_after_the_last_is_answered_with_a_new_token_at_once() -> None:
    world = minting()
    for _ in range(3):
        token = await world.cache.get(KEY)
        assert world.cache.refuse(token.fingerprint) == KEY
        world.clock.advance(300)
    assert world.fetches == 3


async def test_retain_forgets_the_keys_of_a_changed_credential_and_keeps_the_others() -> None:
    world = minting()
    robot = TokenKey("robot", KEY.audience)
    kept, _ = await world.cache.get(KEY), await world.cache.get(robot)
    world.cache.retain(lambda key: key.credential != "robot")
    assert world.cache.peek(robot) is None
    assert world.cache.peek(KEY) is kept


async def test_retain_discards_what_the_old_credential_still_brings() -> None:
    world = World()
    waiter = asyncio.create_task(world.cache.get(KEY))
    await settle()
    old = world.fetch.running[0]
    world.cache.retain(lambda key: False)
    await settle()
    assert old.cancelled()
    assert world.cache.peek(KEY) is None
    if waiter.done():  # else it waits for what the new credential brings
        error = waiter.exception()
        assert isinstance(error, TokenUnavailableError)
        assert "in flight" not in error.message
    again = asyncio.create_task(world.cache.get(KEY))
    await settle()
    assert world.fetches == 2
    await world.cache.close()
    await asyncio.gather(waiter, again, return_exceptions=True)


async def test_retain_also_discards_the_fetch_of_a_key_that_was_evicted_meanwhile() -> None:
    world = World(max_keys=1)
    waiters = [asyncio.create_task(world.cache.get(key)) for key in (KEY, key_of(1))]
    await settle()
    world.cache.retain(lambda key: key != KEY)
    if not world.fetch.running[0].cancelled():
        await world.fetch.hand_over(world.token())
    await settle()
    assert world.cache.peek(KEY) is None
    await world.cache.close()
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_held_is_a_snapshot_of_keys_and_tokens() -> None:
    world = minting()
    token = await world.cache.get(KEY)
    held = world.cache.held()
    await world.cache.get(key_of(1))
    assert list(held) == [(KEY, token)]


async def test_a_wall_clock_two_hours_ahead_serves_nothing_and_recovers_when_set_right() -> None:
    world = minting()
    token = await world.cache.get(KEY)
    world.clock.jump(7200)
    world.fetch.answers = lambda key: Fetched(token.text)
    with pytest.raises(TokenUnavailableError, match="clock"):
        await world.cache.get(KEY)
    world.clock.jump(-7200)
    assert world.cache.peek(KEY) is token


async def test_a_wall_clock_two_hours_back_does_not_extend_a_life() -> None:
    world = minting()
    token = await world.cache.get(KEY)
    world.clock.jump(-7200)
    assert world.cache.peek(KEY) is token
    world.clock.advance(3541)
    assert world.cache.peek(KEY) is None


async def test_a_suspended_machine_wakes_up_with_an_expired_token_and_one_fetch() -> None:
    world = minting()
    await world.cache.get(KEY)
    world.clock.elapsed += 4 * 3600  # boot time counts the sleep; say that the wall clock lags
    assert world.cache.peek(KEY) is None
    world.clock.wall += 4 * 3600
    results = await asyncio.gather(*(world.cache.get(KEY) for _ in range(100)))
    assert len({id(token) for token in results}) == 1
    assert world.fetches == 2


async def test_a_static_token_is_served_without_expiry_and_rechecked() -> None:
    key = TokenKey("athens", "")
    text = ["first"]
    world = World(lambda key: Fetched(text[0], recheck_seconds=1.0))
    assert (await world.cache.get(key)).text == "first"
    world.clock.advance(0.5)
    await world.cache.get(key)
    await settle()
    assert world.fetches == 1
    text[0] = "second"
    world.clock.advance(1)
    assert (await world.cache.get(key)).text == "first"
    await settle()
    assert (await world.cache.get(key)).text == "second"


async def test_an_unchanged_static_token_is_a_success() -> None:
    key = TokenKey("athens", "")
    world = World(lambda key: Fetched("same", recheck_seconds=1.0))
    for _ in range(5):
        await world.cache.get(key)
        await settle()
        world.clock.advance(1.5)
    assert world.outcomes == ["ok"] * 5
