"""What a token is, when it may be sent and when a newer one is wanted: pure, takes `now`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from ext_authz.clock import Now
from ext_authz.errors import SourceError, printable

SAFETY_MARGIN_SECONDS = (
    60.0  # never sent with less left: covers skew between clocks, and the flight
)
METADATA_REFRESH_SECONDS = (
    225.0  # the metadata server hands back its cached token until ~4 min before
)
MAX_TOKEN_LENGTH = 16 * 1024  # Google's are 1 to 2 KiB; a header block of Cloud Run takes 64 KiB
_JWT = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)


class TokenKey(NamedTuple):
    """What a token is kept under. The audience is empty for a static token."""

    credential: str
    audience: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source hands over: the text, and how long it holds if it is no JWT.

    `mints_anew` says that every fetch yields a token of full life (a key, IAM), so that a refresh
    may come early. `recheck_seconds` is for static tokens, which have no `exp`.
    """

    text: str = field(repr=False)
    mints_anew: bool = True
    recheck_seconds: float | None = None
    audience: str | None = None  # what it really is, where it cannot be chosen (a user's login)


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A token that may be sent until its margin; times in Unix seconds."""

    text: str = field(repr=False)
    expires_at: float
    refresh_at: float
    obtained: Now
    fingerprint: str = field(init=False)  # names the token in feedback without giving it away

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        object.__setattr__(self, "fingerprint", digest[:32])

    @property
    def life_seconds(self) -> float:
        """How long it had to live when it was obtained."""
        return self.expires_at - self.obtained.wall


class TokenState(Enum):
    """FRESH: serve. STALE: serve and refresh. EXPIRED: never serve."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


def age_seconds(token: Token, now: Now) -> float:
    """Return the age by whichever clock says more: a clock set back must not extend a life."""
    return max(now.wall - token.obtained.wall, now.elapsed - token.obtained.elapsed)


def seconds_left(token: Token, now: Now) -> float:
    """Return the seconds until `exp`; `inf` for a static token."""
    return token.life_seconds - age_seconds(token, now)


def state_of(token: Token, now: Now) -> TokenState:
    """Judge a held token."""
    left = seconds_left(token, now)
    if left <= SAFETY_MARGIN_SECONDS:
        return TokenState.EXPIRED
    refresh_age = token.refresh_at - token.obtained.wall
    return TokenState.STALE if age_seconds(token, now) >= refresh_age else TokenState.FRESH


def accept(fetched: Fetched, audience: str, now: Now, jitter: float) -> Token:
    """Make a token of what a source handed over, or refuse it.

    `jitter` is a number from 0 to 1. Raises SourceError `token_rejected` when the text is no JWT,
    has another audience, or is inside its safety margin (design.md, rule 4).
    """
    if fetched.recheck_seconds is not None:
        return Token(fetched.text, math.inf, now.wall + fetched.recheck_seconds, now)
    claims = unverified_claims(fetched.text)
    _check_audience(claims.get("aud"), fetched.audience or audience)
    expires_at = _expiry(claims, now)
    return Token(fetched.text, expires_at, refresh_point(expires_at, now, fetched, jitter), now)


def refresh_point(expires_at: float, now: Now, fetched: Fetched, jitter: float) -> float:
    """Return when a newer token is wanted (Unix seconds).

    Half of the life, up to 10 % earlier or later, where each fetch mints anew. Otherwise 225 s
    before expiry or up to 10 % later (earlier would get the same token back); half of short lives.
    """
    half = (expires_at - now.wall) / 2
    if fetched.mints_anew or half < METADATA_REFRESH_SECONDS:
        return now.wall + half * (0.9 + 0.2 * jitter)
    return expires_at - METADATA_REFRESH_SECONDS * (1 - 0.1 * jitter)


def unverified_claims(text: str) -> Mapping[str, Any]:
    """Read a JWT's claims without checking its signature: the destination does that.

    Raises SourceError `token_rejected`.
    """
    match = _JWT.fullmatch(text) if len(text) <= MAX_TOKEN_LENGTH else None
    if match is None:
        raise _rejected("expected a JWT of three parts, got something else")
    part = match.group(1)
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise _rejected("expected claims in JSON, got something else") from None
    if not isinstance(claims, dict):
        raise _rejected("expected a JSON object of claims, got something else")
    return claims


def _check_audience(got: object, audience: str) -> None:
    if got not in (audience, [audience]):
        shown = printable(got, 200) if isinstance(got, str) else type(got).__name__
        raise _rejected(f"expected a token for audience {audience}, got one for {shown}")


def _expiry(claims: Mapping[str, Any], now: Now) -> float:
    expires_at = claims.get("exp")
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
        raise _rejected("expected an expiry time (exp) as a number, got none")
    # Compared before it is converted: an integer may be too large for a float.
    if not abs(expires_at) < now.wall + 10 * 365 * 86400:
        raise _rejected("expected an expiry time (exp) within ten years, got one beyond")
    if expires_at <= now.wall + SAFETY_MARGIN_SECONDS:
        raise _rejected(
            f"expected a token that lives longer than {SAFETY_MARGIN_SECONDS:.0f} s, got one that "
            f"ends in {expires_at - now.wall:.0f} s; if that is wrong, set this machine's clock"
        )
    issued_at = claims.get("iat")
    if not isinstance(issued_at, bool) and isinstance(issued_at, int | float):
        # With our clock behind, exp seems further off than the token's life: believe the life.
        life = expires_at - issued_at
        if SAFETY_MARGIN_SECONDS < life < expires_at - now.wall:
            return now.wall + life
    return float(expires_at)


def _rejected(sentence: str) -> SourceError:
    return SourceError(sentence, code="token_rejected")
