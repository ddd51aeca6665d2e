"""What is counted, under Prometheus names; labels are bounded by the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ext_authz.clock import Clock
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import TokenKey, seconds_left

MAX_TOKENS_SHOWN = 100  # audiences of a wildcard rule are many; the gauge shows the ones used last
CONTENT_TYPE = CONTENT_TYPE_LATEST


class _HeldTokens(Collector):
    """Reads the cache when scraped: nothing is done per request for it."""

    def __init__(self, tokens: TokenCache, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        now = self._clock()
        held = list(self._tokens.held())
        size = GaugeMetricFamily("idtoken_sidecar_token_cache_keys", "Keys in the token cache.")
        size.add_metric([], len(self._tokens))
        yield size
        left = GaugeMetricFamily(
            "idtoken_sidecar_token_expires_in_seconds",
            f"Seconds to expiry of the {MAX_TOKENS_SHOWN} tokens used last.",
            labels=["credential", "audience"],
        )
        for key, token in held[-MAX_TOKENS_SHOWN:]:
            left.add_metric([key.credential, key.audience], seconds_left(token, now))
        yield left


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._checks = Counter(
            "idtoken_sidecar_checks",
            "Check answers by outcome and by the match of the destination's rule.",
            ["outcome", "rule"],
            registry=self._registry,
        )
        self._check_counters: dict[tuple[str, str], Counter] = {}
        self._fetches = Counter(
            "idtoken_sidecar_token_fetches",
            "Finished token fetches by credential and outcome.",
            ["credential", "outcome"],
            registry=self._registry,
        )
        self._reloads = Counter(
            "idtoken_sidecar_config_reloads",
            "Configuration reloads by outcome.",
            ["outcome"],
            registry=self._registry,
        )

    def watch(self, tokens: TokenCache, clock: Clock) -> None:
        """Show this cache's tokens from now on."""
        self._registry.register(_HeldTokens(tokens, clock))

    def on_check(self, outcome: str, rule: str) -> None:
        """Count one answer."""
        counter = self._check_counters.get((outcome, rule))
        if counter is None:  # `labels` costs four times as much as a look-up, at every Check
            counter = self._check_counters[outcome, rule] = self._checks.labels(outcome, rule)
        counter.inc()

    def on_fetch(self, key: TokenKey, outcome: str) -> None:
        """Count one finished fetch."""
        self._fetches.labels(key.credential, outcome).inc()

    def on_reload(self, outcome: str) -> None:
        """Count one reload of the configuration: `ok` or `refused`."""
        self._reloads.labels(outcome).inc()

    def exposition(self) -> bytes:
        """Return the text that /metrics answers with."""
        return generate_latest(self._registry)
