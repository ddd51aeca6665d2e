"""Fetches the tokens of chosen destinations before readiness, and remembers which failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ext_authz import log
from ext_authz.destination import Destination
from ext_authz.errors import SidecarError
from ext_authz.rules import Rule, audience_of
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import TokenKey


async def prewarm(rules: Iterable[Rule], tokens: TokenCache) -> dict[str, str]:
    """Fetch a token per rule, all at once; return why it failed, by match. Takes a few seconds."""
    chosen = list(rules)
    reasons = await asyncio.gather(*(_one(rule, tokens) for rule in chosen))
    return {rule.match: why for rule, why in zip(chosen, reasons, strict=True) if why}


async def _one(rule: Rule, tokens: TokenCache) -> str:
    try:
        audience = audience_of(rule, Destination(rule.host, rule.port))
        await tokens.get(TokenKey(rule.credential, audience))
    except SidecarError as error:
        log.warning("prewarm failed", rule=rule.match, code=error.code)
        return error.message
    return ""
