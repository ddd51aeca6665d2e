"""What Check remembers, what Envoy may repeat of it, and that neither grows or lasts too long."""

from __future__ import annotations

import tracemalloc

from ext_authz.check_service import MAX_CACHE_SECONDS, MAX_REMEMBERED
from ext_authz.errors import SourceError
from ext_authz.policy import Policy
from ext_authz.tokens import SAFETY_MARGIN_SECONDS
from tests.unit.stage import RULES, Stage, cache_seconds, error_of, route_of


async def test_only_our_own_envoy_may_repeat_an_answer_and_only_where_it_is_switched_on() -> None:
    asks = {"credential_cache": "1"}
    on = Stage(worker_cache=True)
    assert 0 < cache_seconds(await on.check("svc.run.app", extensions=asks)) <= MAX_CACHE_SECONDS
    assert cache_seconds(await on.check("svc.run.app")) == 0
    assert cache_seconds(await Stage().check("svc.run.app", extensions=asks)) == 0
    on.service.use(Policy(RULES), worker_cache=False)
    assert cache_seconds(await on.check("svc.run.app", extensions=asks)) == 0


async def test_no_answer_is_repeated_into_the_margin_of_its_token() -> None:
    stage = Stage(worker_cache=True)
    await stage.check("svc.run.app")
    stage.error = SourceError("down", code="source_unreachable")
    stage.world.clock.advance(3600 - SAFETY_MARGIN_SECONDS - 12)
    for left in range(12, 0, -1):
        response = await stage.check("svc.run.app", extensions={"credential_cache": "1"})
        assert cache_seconds(response) <= min(left, MAX_CACHE_SECONDS)
        stage.world.clock.advance(1)
    assert error_of(await stage.check("svc.run.app")) == "token_unavailable"


async def test_more_destinations_than_are_remembered_are_all_answered() -> None:
    stage = Stage()
    for number in range(MAX_REMEMBERED + 10):
        assert await stage.raw(f"h{number}.example.com")
    assert route_of(await stage.check("h0.example.com")) == "plain"


async def test_authorities_too_long_to_be_good_are_not_kept_in_memory() -> None:
    stage = Stage()
    tracemalloc.start()
    for number in range(100):
        await stage.raw("x" * 60_000 + str(number))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
