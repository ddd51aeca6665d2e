"""Keeps one access token of a credential until shortly before its end, for impersonation."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ext_authz.clock import Clock, Now, system_clock
from ext_authz.errors import SourceError
from ext_authz.tokens import MAX_TOKEN_LENGTH

CLOUD_PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
REFRESH_SECONDS = 225.0  # as for ID tokens: the metadata server hands its own back until ~4 min
_LONGEST_LIFE_SECONDS = 3600.0  # Google's; a server that promises more is not believed
_PRINTABLE = re.compile(r"[!-~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token and the seconds that it lives from now on."""

    text: str = field(repr=False)
    life_seconds: float


class AccessTokens:
    """Hands out one access token; asks `mint` when it has none that lives on. Safe for threads.

    `mint` raises SourceError. Threads that waited while it failed share that failure, so that a
    server that is down costs one time limit and not one for each audience.
    """

    def __init__(self, mint: Callable[[], AccessToken], clock: Clock = system_clock) -> None:
        self._mint = mint
        self._clock = clock
        self._lock = threading.Lock()
        self._held: tuple[AccessToken, Now] | None = None
        self._failure: tuple[SourceError, float] | None = None

    def get(self) -> str:
        """Return a token that lives for some minutes more. Raises SourceError."""
        asked = self._clock().elapsed
        with self._lock:
            if (held := self._usable()) is not None:
                return held
            if self._failure is not None and self._failure[1] >= asked:
                raise _copy_of(self._failure[0])
            try:
                token = _checked(self._mint())
            except SourceError as error:
                self._failure = _copy_of(error), self._clock().elapsed
                raise
            self._held = token, self._clock()
            return token.text

    def drop(self, text: str) -> None:
        """Forget a token that an API refused."""
        with self._lock:
            if self._held is not None and self._held[0].text == text:
                self._held = None

    def _usable(self) -> str | None:
        if self._held is None:
            return None
        token, obtained = self._held
        now = self._clock()
        age = max(now.wall - obtained.wall, now.elapsed - obtained.elapsed)
        good_for = max(token.life_seconds - REFRESH_SECONDS, token.life_seconds / 2)
        return token.text if age < good_for else None


def token_of(credentials: Any) -> AccessToken:
    """Return what google-auth's credentials hold after a refresh (`expiry` is naive UTC)."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return AccessToken(credentials.token, (credentials.expiry - now).total_seconds())


def _checked(token: AccessToken) -> AccessToken:
    text: object = token.text  # of foreign JSON
    if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH or not _PRINTABLE.fullmatch(text):
        sentence = "expected an access token in the server's answer, got something else"
        raise SourceError(sentence, code="source_nonsense")
    return AccessToken(text, min(token.life_seconds, _LONGEST_LIFE_SECONDS))


def _copy_of(error: SourceError) -> SourceError:
    """Return a copy: sentences are completed on their way up, each for its own audience."""
    return SourceError(
        error.message,
        code=error.code,
        permanent=error.permanent,
        retry_after_seconds=error.retry_after_seconds,
    )
