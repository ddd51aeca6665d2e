"""The refresh loop: asks for what is due once a second, and spins never."""

from __future__ import annotations

import asyncio

import pytest

from ext_authz.refresh import PERIOD_SECONDS, forget_idle, keep_fresh
from ext_authz.tokens import Fetched
from tests.unit.fakes import KEY, World, settle


async def turns(world: World, count: int, seconds: float, loop: object = keep_fresh) -> list[float]:
    """Run the loop for `count` turns, each of which takes `seconds` on the fake clock."""
    slept: list[float] = []

    async def sleep(period: float) -> None:
        slept.append(period)
        await settle()
        world.clock.advance(seconds)
        if len(slept) >= count:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await loop(world.cache, sleep)  # type: ignore[operator]
    return slept


async def test_a_token_in_use_never_grows_old() -> None:
    world = World()
    world.fetch.answers = lambda key: Fetched(world.token())
    await world.cache.get(KEY)
    for _ in range(20):
        await turns(world, 10, 60)
        token = world.cache.peek(KEY)
        assert token is not None
        assert token.expires_at - world.clock.wall > 1500
    assert world.fetches < 15


async def test_it_sleeps_a_period_between_its_turns() -> None:
    assert await turns(World(), 3, 1) == [PERIOD_SECONDS] * 3


async def test_lazy_mode_only_forgets() -> None:
    world = World()
    world.fetch.answers = lambda key: Fetched(world.token())
    await world.cache.get(KEY)
    slept = await turns(world, 100, 60, forget_idle)
    assert world.fetches == 1
    assert len(world.cache) == 0
    assert min(slept) >= 10 * PERIOD_SECONDS
