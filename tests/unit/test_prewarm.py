"""Prewarming: all at once, each failure by name, and none stops the others."""

from __future__ import annotations

import asyncio

from ext_authz.errors import SourceError
from ext_authz.prewarm import prewarm
from ext_authz.rules import Rule
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import SENTINEL, World, settle

RULES = (
    Rule("a.run.app", "default"),
    Rule("b.run.app:8443", "robot"),
    Rule("iap.example.com", "default", audience="client-id"),
    Rule("static.example.com", "static", audience=None),
)
KEYS = {
    TokenKey("default", "https://a.run.app"),
    TokenKey("robot", "https://b.run.app"),
    TokenKey("default", "client-id"),
    TokenKey("static", ""),
}


def made(*broken: str) -> World:
    def fetch(key: TokenKey) -> Fetched:
        if key.credential in broken:
            raise SourceError(f"{key.credential} is not to be had", code="source_refused")
        if not key.audience:
            return Fetched(SENTINEL, recheck_seconds=60)
        return Fetched(world.token(3600, key.audience))

    world = World(fetch)
    return world


async def test_every_rule_given_has_its_token_afterwards() -> None:
    world = made()
    assert await prewarm(RULES, world.cache) == {}
    assert set(world.fetch.asked) == KEYS
    assert all(world.cache.peek(key) for key in KEYS)


async def test_a_failure_is_told_by_the_rules_match_and_the_others_are_fetched() -> None:
    world = made("robot")
    failed = await prewarm(RULES, world.cache)
    assert list(failed.values()) == ["b.run.app:8443: robot is not to be had"]
    assert sum(world.cache.peek(key) is not None for key in KEYS) == 3


async def test_all_are_fetched_at_the_same_time() -> None:
    world = World()
    running = asyncio.create_task(prewarm(RULES[:3], world.cache))
    await settle()
    assert world.fetches == 3
    for audience in ("https://a.run.app", "https://b.run.app", "client-id"):
        await world.fetch.hand_over(world.token(3600, audience))
    assert await running == {}


async def test_two_rules_with_one_audience_cost_one_fetch() -> None:
    world = made()
    rules = (Rule("a.test", "default", audience="same"), Rule("b.test", "default", audience="same"))
    assert await prewarm(rules, world.cache) == {}
    assert world.fetches == 1


async def test_nothing_to_prewarm_asks_nobody() -> None:
    world = made()
    assert await prewarm((), world.cache) == {}
    assert world.fetches == 0
