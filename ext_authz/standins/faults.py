"""What can go wrong with an issuer, each as a value that a test switches on and off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ext_authz.standins.issuer import Claims

Tamper = Callable[[Claims], Claims]
Break = Literal["reset", "close"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One misbehaviour of an endpoint; build it with the class methods below.

    `stall_seconds` delays whatever follows; `trickle_seconds` is the pause after each byte of
    the body; `tamper` changes the claims of minted ID tokens.
    """

    status: int | None = None
    body: bytes | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    stall_seconds: float = 0.0
    trickle_seconds: float = 0.0
    breaks: Break | None = None
    tamper: Tamper | None = None

    @classmethod
    def error(
        cls, status: int, *, retry_after: int | None = None, body: bytes | str = b"{}"
    ) -> Fault:
        """Answer with this HTTP status, optionally with Retry-After in seconds."""
        headers = (("Retry-After", str(retry_after)),) if retry_after is not None else ()
        return cls(status=status, body=_bytes(body), headers=headers)

    @classmethod
    def stall(cls, seconds: float) -> Fault:
        """Answer rightly, but only after `seconds`."""
        return cls(stall_seconds=seconds)

    @classmethod
    def trickle(cls, seconds_per_byte: float) -> Fault:
        """Answer rightly, one byte of the body at a time."""
        return cls(trickle_seconds=seconds_per_byte)

    @classmethod
    def reset(cls) -> Fault:
        """Reset the TCP connection instead of answering."""
        return cls(breaks="reset")

    @classmethod
    def close(cls) -> Fault:
        """Close the connection in good order without an answer."""
        return cls(breaks="close")

    @classmethod
    def garbage(cls, body: bytes | str = b"\x00\xffnot a token <html>") -> Fault:
        """Answer 200 with this body."""
        return cls(status=200, body=_bytes(body))

    @classmethod
    def huge(cls, length: int = 50_000_000) -> Fault:
        """Answer 200 with a body of `length` bytes."""
        return cls(status=200, body=b"A" * length)

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Fault:
        """Answer with a redirect to `location`."""
        return cls(status=status, body=b"", headers=(("Location", location),))

    @classmethod
    def claims(cls, tamper: Tamper) -> Fault:
        """Sign what `tamper` makes of the claims of each minted ID token."""
        return cls(tamper=tamper)

    @classmethod
    def wrong_audience(cls, audience: str = "https://someone-else.example") -> Fault:
        """Mint for another audience than the one asked for."""
        return cls.claims(lambda claims: claims | {"aud": audience})

    @classmethod
    def expired(cls) -> Fault:
        """Mint tokens that expired an hour ago."""
        return cls.claims(
            lambda claims: claims | {"iat": claims["iat"] - 7200, "exp": claims["iat"] - 3600}
        )

    @classmethod
    def without_expiry(cls) -> Fault:
        """Mint tokens that have no `exp`."""
        return cls.claims(lambda claims: {k: v for k, v in claims.items() if k != "exp"})

    @classmethod
    def expiry_as_text(cls) -> Fault:
        """Mint tokens whose `exp` is a string."""
        return cls.claims(lambda claims: claims | {"exp": str(claims["exp"])})


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
