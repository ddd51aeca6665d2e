"""Metrics: what is counted, under bounded labels, and never with a token."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ext_authz.metrics import MAX_TOKENS_SHOWN, Metrics
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import KEY, SENTINEL, World


def samples(metrics: Metrics) -> dict[str, float]:
    """Return every sample as `name{label=value,…}` without the common prefix."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('idtoken_sidecar_')}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
def watched() -> tuple[Metrics, World]:
    """Return metrics that show a cache whose source mints at once."""
    world = World(lambda key: Fetched(world.token(3600, key.audience, jti=SENTINEL)))
    metrics = Metrics()
    metrics.watch(world.cache, world.clock)
    return metrics, world


def test_checks_fetches_and_reloads_are_counted() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.on_check("inject", "*.run.app")
    metrics.on_check("pass", "")
    metrics.on_fetch(KEY, "ok")
    metrics.on_fetch(TokenKey("robot", "https://a.b"), "source_slow")
    metrics.on_reload("refused")
    found = samples(metrics)
    assert found["checks_total{outcome=inject,rule=*.run.app}"] == 3
    assert found["checks_total{outcome=pass,rule=}"] == 1
    assert found["token_fetches_total{credential=default,outcome=ok}"] == 1
    assert found["token_fetches_total{credential=robot,outcome=source_slow}"] == 1
    assert found["config_reloads_total{outcome=refused}"] == 1


def test_audiences_do_not_multiply_the_counters() -> None:
    metrics = Metrics()
    for number in range(500):
        metrics.on_fetch(TokenKey("default", f"https://s{number}.run.app"), "ok")
    names = [name for name in samples(metrics) if name.startswith("token_fetches_total")]
    assert names == ["token_fetches_total{credential=default,outcome=ok}"]


async def test_each_token_held_shows_its_seconds_to_expiry(watched: tuple[Metrics, World]) -> None:
    metrics, world = watched
    await world.cache.get(KEY)
    world.clock.advance(600)
    found = samples(metrics)
    name = f"token_expires_in_seconds{{audience={KEY.audience},credential=default}}"
    assert found[name] == 3000
    assert found["token_cache_keys{}"] == 1


async def test_of_many_tokens_those_used_last_are_shown(watched: tuple[Metrics, World]) -> None:
    metrics, world = watched
    for number in range(MAX_TOKENS_SHOWN + 20):
        await world.cache.get(TokenKey("default", f"https://s{number}.run.app"))
    found = samples(metrics)
    shown = [name for name in found if name.startswith("token_expires_in_seconds")]
    assert len(shown) == MAX_TOKENS_SHOWN
    assert not any("s0.run.app" in name for name in shown)
    assert found["token_cache_keys{}"] == MAX_TOKENS_SHOWN + 20


async def test_a_static_token_never_expires(watched: tuple[Metrics, World]) -> None:
    metrics, world = watched
    world.fetch.answers = lambda key: Fetched("static", recheck_seconds=60)
    await world.cache.get(TokenKey("athens", ""))
    found = samples(metrics)
    assert found["token_expires_in_seconds{audience=,credential=athens}"] == float("inf")


async def test_no_token_is_in_the_exposition(watched: tuple[Metrics, World]) -> None:
    metrics, world = watched
    token = await world.cache.get(KEY)
    assert token.text.encode() not in metrics.exposition()
    assert b"eyJ" not in metrics.exposition()


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.on_reload("ok")
    assert "config_reloads_total{outcome=ok}" not in samples(other)
