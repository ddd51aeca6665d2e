"""One token per (credential, audience) and one fetch in flight for each; no I/O of its own.

A good token is never replaced by an error, a fetch outlives the request that asked for it, and a
failure is remembered so that a flood of requests costs one fetch per back-off.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from ext_authz.clock import Clock, Now
from ext_authz.errors import SourceError, TokenUnavailableError
from ext_authz.tokens import Fetched, Token, TokenKey, TokenState, accept, state_of

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0  # Google back for half a minute at most before we notice
PERMANENT_BACKOFF_SECONDS = 15.0  # a missing permission is granted by hand: soon enough to see it
LONGEST_RETRY_AFTER_SECONDS = 60.0
MAX_KEYS = 10_000
MAX_FETCHES = 256  # distinct keys in flight; beyond it a flood of names answers 503 at once
MAX_WAIT_SECONDS = 4.0  # below Envoy's 6 s for a Check (envoy.yaml)

Fetch = Callable[[TokenKey], Awaitable[Fetched]]
Listen = Callable[[TokenKey, str], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last fetch brought nothing, and until when (clock.Now.elapsed) it is not repeated."""

    error: SourceError
    attempts: int
    until_elapsed: float


@dataclass(slots=True, eq=False)
class _Entry:
    last_used: float
    token: Token | None = None
    failure: Failure | None = None
    refusals: int = 0
    refused_until: float = float("-inf")


class TokenCache:
    """Holds tokens by key and asks `fetch` for those it lacks.

    `fetch` raises SourceError. `on_fetch(key, outcome)` hears of every finished fetch. `jitter`
    returns numbers from 0 to 1. All methods belong to one event loop.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        on_fetch: Listen = lambda key, outcome: None,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._jitter = jitter
        self._on_fetch = on_fetch
        self._max_keys = max_keys
        self._entries: OrderedDict[TokenKey, _Entry] = OrderedDict()
        self._fetches: dict[TokenKey, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """Return how many keys are kept, with a token or with a remembered failure."""
        return len(self._entries)

    def held(self) -> Iterator[tuple[TokenKey, Token]]:
        """Return a snapshot of the tokens held, for metrics."""
        return ((key, e.token) for key, e in list(self._entries.items()) if e.token is not None)

    def peek(self, key: TokenKey) -> Token | None:
        """Return a token that may be sent now, without waiting; refresh a stale one behind it."""
        entry = self._entries.get(key)
        if entry is None or entry.token is None:
            return None
        now = self._clock()
        state = state_of(entry.token, now)
        if state is TokenState.EXPIRED:
            return None
        entry.last_used = now.elapsed
        self._entries.move_to_end(key)
        if state is TokenState.STALE:
            self.refresh(key)
        return entry.token

    async def get(self, key: TokenKey, wait_seconds: float = MAX_WAIT_SECONDS) -> Token:
        """Return a token that may be sent now; wait for the one fetch if there is none.

        Raises TokenUnavailableError: at once while a failure is remembered, else after the fetch
        failed or `wait_seconds` passed. Cancelling the caller does not cancel the fetch.
        """
        token = self.peek(key)
        if token is not None:
            return token
        self._touch(key).last_used = self._clock().elapsed
        task = self.refresh(key)
        if task is not None:
            await asyncio.wait({task}, timeout=wait_seconds)
        return self.peek(key) or self._fail(key, wait_seconds)

    def refresh(self, key: TokenKey) -> asyncio.Task[None] | None:
        """Return the fetch in flight, a new one, or None while backing off or overloaded."""
        task = self._fetches.get(key)
        if task is not None:
            return task
        entry = self._entries.get(key)
        if entry and entry.failure and self._clock().elapsed < entry.failure.until_elapsed:
            return None
        if len(self._fetches) >= MAX_FETCHES:
            return None
        task = asyncio.get_running_loop().create_task(self._run(key), name=f"fetch {key.audience}")
        self._fetches[key] = task
        return task

    def due(self) -> list[TokenKey]:
        """Return the keys whose token wants a refresh; forget those that nobody asked for.

        A key not used during one life of its token is dropped rather than refreshed for ever.
        """
        now = self._clock()
        due = []
        for key, entry in list(self._entries.items()):
            if key in self._fetches:
                continue
            if self._is_idle(entry, now):
                del self._entries[key]
            elif entry.token and state_of(entry.token, now) is not TokenState.FRESH:
                due.append(key)
        return due

    def refuse(self, fingerprint: str) -> TokenKey | None:
        """Forget the token that its destination refused, so that the next request gets a new one.

        Return its key; None if it is not held any more, or if this key's last refusal is so recent
        that minting anew did not help (back-off as for failures).
        """
        for key, entry in self._entries.items():
            if entry.token is not None and entry.token.fingerprint == fingerprint:
                return key if self._drop(entry) else None
        return None

    def _drop(self, entry: _Entry) -> bool:
        now = self._clock()
        if now.elapsed < entry.refused_until:
            return False
        if now.elapsed - entry.refused_until > LONGEST_BACKOFF_SECONDS:
            entry.refusals = 0  # the last one is long ago: this is a new story
        entry.refusals += 1
        entry.refused_until = now.elapsed + _doubled(entry.refusals)
        entry.token = entry.failure = None
        return True

    def retain(self, keep: Callable[[TokenKey], bool]) -> None:
        """Forget every key that `keep` refuses, for instance after a credential changed."""
        for key in [key for key in (*self._entries, *self._fetches) if not keep(key)]:
            self._entries.pop(key, None)
            # The running fetch may ask the old source: what it brings must not be kept.
            if task := self._fetches.pop(key, None):
                task.cancel()

    async def close(self) -> None:
        """Cancel what is in flight."""
        tasks = list(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: TokenKey) -> None:
        task = asyncio.current_task()
        try:
            fetched = await self._fetch(key)
            outcome = self._keep(key, accept(fetched, key.audience, self._clock(), self._jitter()))
        except SourceError as error:
            outcome = self._remember(key, error)
        except Exception:  # noqa: BLE001 - whatever it is, it counts as a failure and backs off
            sentence = f"credential {key.credential!r} failed unexpectedly"
            outcome = self._remember(key, SourceError(sentence, code="internal_error"))
        finally:
            if self._fetches.get(key) is task:
                del self._fetches[key]
        self._on_fetch(key, outcome)

    def _keep(self, key: TokenKey, token: Token) -> str:
        entry = self._touch(key)
        old = entry.token
        static = token.expires_at == float("inf")
        same = old is not None and (token.text == old.text or token.expires_at <= old.expires_at)
        if same and not static:
            error = SourceError("the source handed back a token no newer", code="token_not_newer")
            return self._remember(key, error)
        entry.token, entry.failure = token, None
        return "ok"

    def _remember(self, key: TokenKey, error: SourceError) -> str:
        entry = self._touch(key)
        attempts = entry.failure.attempts + 1 if entry.failure else 1
        until = self._clock().elapsed + self._backoff_seconds(error, attempts)
        entry.failure = Failure(error, attempts, until)
        return error.code

    def _backoff_seconds(self, error: SourceError, attempts: int) -> float:
        base = PERMANENT_BACKOFF_SECONDS if error.permanent else _doubled(attempts - 1)
        asked = min(error.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
        return max(base * (0.9 + 0.2 * self._jitter()), asked)

    def _fail(self, key: TokenKey, waited: float) -> Token:
        """Say why there is no token. Always raises."""
        entry = self._entries.get(key)
        failure = entry.failure if entry else None
        if failure is not None:
            left = max(failure.until_elapsed - self._clock().elapsed, 0.0)
            raise TokenUnavailableError(
                failure.error.message, reason=failure.error.code, retry_after_seconds=left
            )
        if key in self._fetches:
            sentence, reason = f"gave no answer within {waited:.0f} s", "source_slow"
        elif len(self._fetches) >= MAX_FETCHES:
            sentence, reason = f"has {MAX_FETCHES} fetches in flight already", "too_many_fetches"
        else:
            sentence, reason = "was changed while its token was fetched", "credential_changed"
        raise TokenUnavailableError(
            f"credential {key.credential!r} {sentence}; try again",
            reason=reason,
            retry_after_seconds=FIRST_BACKOFF_SECONDS,
        )

    def _touch(self, key: TokenKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._clock().elapsed)
            if len(self._entries) > self._max_keys:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return entry

    def _is_idle(self, entry: _Entry, now: Now) -> bool:
        life = entry.token.life_seconds if entry.token else LONGEST_BACKOFF_SECONDS * 4
        return now.elapsed - entry.last_used > life


def _doubled(times: int) -> float:
    """Return the first back-off, doubled so many times, within the longest (seconds)."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(times, 10), LONGEST_BACKOFF_SECONDS)
