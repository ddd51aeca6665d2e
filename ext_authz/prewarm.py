"""Fetches the tokens of chosen destinations before readiness, and remembers which failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ext_authz import log
from ext_authz.destination import Destination
from ext_authz.errors import TokenUnavailableError
from ext_authz.rules import Rule, audience_of
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import TokenKey


async def prewarm(rules: Iterable[Rule], tokens: TokenCache) -> dict[TokenKey, str]:
    """Fetch a token per rule, all at once; return `match: why` of those that failed.

    Takes a few seconds at most.
    """
    wanted = {_key(rule): rule.match for rule in rules}
    reasons = await asyncio.gather(*(_fetch(key, tokens) for key in wanted))
    failed = {key: why for key, why in zip(wanted, reasons, strict=True) if why}
    for key in failed:
        log.warning("prewarm failed", rule=wanted[key], credential=key.credential)
    return {key: f"{wanted[key]}: {why}" for key, why in failed.items()}


def _key(rule: Rule) -> TokenKey:
    return TokenKey(rule.credential, audience_of(rule, Destination(rule.host, rule.port)))


async def _fetch(key: TokenKey, tokens: TokenCache) -> str:
    try:
        await tokens.get(key)
    except TokenUnavailableError as error:
        return error.message
    return ""
