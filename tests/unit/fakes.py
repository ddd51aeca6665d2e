"""What the unit tests share: a clock that moves when told, a fetch driven by hand, and tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

from ext_authz.clock import Now
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import Fetched, TokenKey

START = 1_750_000_000.0
AUDIENCE = "https://svc.run.app"
KEY = TokenKey("default", AUDIENCE)
SENTINEL = "sentinel-Sm9obi1Eb2U-do-not-show"


class FakeClock:
    """Two clocks: `advance` moves both, `jump` only the wall."""

    def __init__(self, wall: float = START, elapsed: float = 5_000.0) -> None:
        self.wall = wall
        self.elapsed = elapsed

    def __call__(self) -> Now:
        return Now(self.wall, self.elapsed)

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds


def jwt(claims: object, *, signature: str = "c2lnbmF0dXJl") -> str:
    """Return three segments around these claims; nobody verifies the signature here."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.{signature}"


def token_text(clock: FakeClock, life: float = 3600, audience: str = AUDIENCE, **more: Any) -> str:
    """Return an ID token for `audience` that lives `life` seconds from now."""
    return jwt({"aud": audience, "exp": int(clock.wall + life), **more})


class FakeFetch:
    """A source whose fetches end when the test says so.

    With `answers` set each fetch ends at once with what the function returns or raises.
    """

    def __init__(self, answers: Callable[[TokenKey], Fetched] | None = None) -> None:
        self.answers = answers
        self.asked: list[TokenKey] = []
        self.running: list[asyncio.Future[Fetched]] = []

    async def __call__(self, key: TokenKey) -> Fetched:
        self.asked.append(key)
        if self.answers is not None:
            return self.answers(key)
        future: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        self.running.append(future)
        return await future

    async def hand_over(self, text: str, *, mints_anew: bool = True) -> None:
        """End the oldest running fetch with this token."""
        self.running.pop(0).set_result(Fetched(text, mints_anew=mints_anew))
        await settle()

    async def fail(self, error: Exception) -> None:
        """End the oldest running fetch with this error."""
        self.running.pop(0).set_exception(error)
        await settle()


class World:
    """One cache with its fake clock and fake fetch; `outcomes` is what `on_fetch` heard."""

    def __init__(
        self,
        answers: Callable[[TokenKey], Fetched] | None = None,
        *,
        jitter: float = 0.5,
        max_keys: int = 10_000,
    ) -> None:
        self.clock = FakeClock()
        self.fetch = FakeFetch(answers)
        self.outcomes: list[str] = []
        self.jitter = jitter
        self.cache = TokenCache(
            self.fetch,
            clock=self.clock,
            jitter=lambda: self.jitter,
            on_fetch=lambda key, outcome: self.outcomes.append(outcome),
            max_keys=max_keys,
        )

    def token(self, life: float = 3600, audience: str = AUDIENCE, **more: Any) -> str:
        return token_text(self.clock, life, audience, **more)

    @property
    def fetches(self) -> int:
        return len(self.fetch.asked)

    def refresh_what_is_due(self) -> None:
        """Do what one turn of the refresh loop does."""
        for key in self.cache.due():
            self.cache.refresh(key)


async def settle() -> None:
    """Let every task run that can; no time passes."""
    for _ in range(6):
        await asyncio.sleep(0)
