"""A refused token is forgotten: exactly that one, once, and seldom where minting does not help."""

from __future__ import annotations

import pytest

from ext_authz.token_cache import LONGEST_BACKOFF_SECONDS
from ext_authz.tokens import Fetched, Token, TokenKey
from tests.unit.fakes import KEY, World

OTHER = TokenKey("default", "https://other.run.app")


def minting() -> World:
    """A world whose source mints another token at each fetch."""

    def fetch(key: TokenKey) -> Fetched:
        return Fetched(world.token(3600, key.audience, jti=world.fetches))

    world = World(fetch)
    return world


async def test_only_the_token_that_was_sent_is_forgotten() -> None:
    world = minting()
    token, other = await world.cache.get(KEY), await world.cache.get(OTHER)
    assert world.cache.refuse(token.fingerprint) == KEY
    assert world.cache.peek(KEY) is None
    assert world.cache.peek(OTHER) is other
    assert (await world.cache.get(KEY)).text != token.text
    assert world.fetches == 3


@pytest.mark.parametrize("fingerprint", ["", "0" * 32, "\0", "x" * 100_000])
async def test_a_fingerprint_that_nobody_holds_drops_nothing(fingerprint: str) -> None:
    world = minting()
    token = await world.cache.get(KEY)
    assert world.cache.refuse(fingerprint) is None
    assert world.cache.refuse(token.text) is None
    assert world.cache.peek(KEY) is token


async def test_many_refusals_of_one_token_drop_it_once() -> None:
    world = minting()
    token = await world.cache.get(KEY)
    assert [world.cache.refuse(token.fingerprint) for _ in range(10)] == [KEY] + [None] * 9
    newer = await world.cache.get(KEY)
    assert world.cache.refuse(token.fingerprint) is None
    assert world.cache.peek(KEY) is newer


async def refuse_for(world: World, seconds: int) -> int:
    """Use and refuse whatever token there is ten times a second; return the fetches it cost."""
    before = world.fetches
    for _ in range(seconds * 10):
        world.cache.refuse((await world.cache.get(KEY)).fingerprint)
        world.clock.advance(0.1)
    return world.fetches - before


async def test_a_destination_that_refuses_every_token_costs_a_fetch_per_backoff() -> None:
    world = minting()
    await world.cache.get(KEY)
    first = await refuse_for(world, 60)  # after 0, 2, 6, 14, 30 and 60 s
    assert 4 <= first <= 6
    # From then on at its longest.
    assert await refuse_for(world, 300) <= 300 / LONGEST_BACKOFF_SECONDS + 1


async def test_a_source_that_hands_the_same_token_back_is_asked_once_per_backoff() -> None:
    world = World()
    text = world.token(240)
    world.fetch.answers = lambda key: Fetched(text, mints_anew=False)
    await world.cache.get(KEY)
    assert await refuse_for(world, 60) <= 6


async def test_while_backing_off_the_token_is_sent_on() -> None:
    world = minting()
    first = await world.cache.get(KEY)
    world.cache.refuse(first.fingerprint)
    second = await world.cache.get(KEY)
    assert world.cache.refuse(second.fingerprint) is None
    assert world.cache.peek(KEY) is second
    world.clock.advance(2.1)
    assert world.cache.refuse(second.fingerprint) == KEY


async def test_after_a_quiet_time_the_backoff_begins_anew() -> None:
    world = minting()
    await refuse_for(world, 60)
    world.clock.advance(LONGEST_BACKOFF_SECONDS * 2 + 1)
    token = await world.cache.get(KEY)
    assert world.cache.refuse(token.fingerprint) == KEY
    world.clock.advance(2.1)
    assert world.cache.refuse((await world.cache.get(KEY)).fingerprint) == KEY


async def test_each_key_has_a_backoff_of_its_own() -> None:
    world = minting()
    for key in (KEY, OTHER):
        token = await world.cache.get(key)
        assert world.cache.refuse(token.fingerprint) == key


async def test_a_refused_static_token_is_read_again() -> None:
    world = World(lambda key: Fetched(f"opaque-{world.fetches}", recheck_seconds=60))
    key = TokenKey("athens", "")
    token: Token = await world.cache.get(key)
    assert world.cache.refuse(token.fingerprint) == key
    assert (await world.cache.get(key)).text == "opaque-2"


async def test_the_fingerprint_does_not_give_the_token_away() -> None:
    world = minting()
    token = await world.cache.get(KEY)
    assert len(token.fingerprint) == 32
    assert all(part not in token.fingerprint for part in token.text.split("."))
    assert token.text not in repr(token)
