"""The loop that keeps held tokens fresh ahead of expiry; correctness does not depend on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ext_authz.token_cache import TokenCache

PERIOD_SECONDS = 1.0  # a refresh point is minutes before expiry: a second late is nothing


async def keep_fresh(
    cache: TokenCache, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Start a refresh for every token that wants one, for ever (`tokens.refresh: ahead`)."""
    while True:
        for key in cache.due():
            cache.refresh(key)
        await sleep(PERIOD_SECONDS)


async def forget_idle(
    cache: TokenCache, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Drop keys that nobody asks for, without refreshing (`tokens.refresh: lazy`)."""
    while True:
        await sleep(60 * PERIOD_SECONDS)
        cache.due()
