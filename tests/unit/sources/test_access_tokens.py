"""One access token, kept until shortly before its end, minted once for all who wait."""

from __future__ import annotations

import threading

import pytest

from ext_authz.clock import Now
from ext_authz.errors import SourceError
from ext_authz.sources.access_tokens import AccessToken, AccessTokens
from tests.unit.fakes import SENTINEL


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.wall = self.elapsed = 1000.0

    def __call__(self) -> Now:
        return Now(self.wall, self.elapsed)


class Mint:
    """Counts; fails when told."""

    def __init__(self, life: float = 3600.0) -> None:
        self.count, self.life = 0, life
        self.error: SourceError | None = None

    def __call__(self) -> AccessToken:
        self.count += 1
        if self.error is not None:
            raise self.error
        return AccessToken(f"token{self.count}", self.life)


def test_it_is_kept_until_minutes_before_its_end() -> None:
    clock, mint = Clock(), Mint()
    tokens = AccessTokens(mint, clock)
    assert tokens.get() == "token1"
    clock.elapsed += 3374
    assert tokens.get() == "token1"
    clock.elapsed += 1
    assert tokens.get() == "token2"


@pytest.mark.parametrize("clock_that_moves", ["wall", "elapsed"])
def test_either_clock_ends_it(clock_that_moves: str) -> None:
    clock, mint = Clock(), Mint()
    tokens = AccessTokens(mint, clock)
    tokens.get()
    setattr(clock, clock_that_moves, 1000.0 + 3500)
    assert tokens.get() == "token2"


def test_a_short_life_is_used_by_half() -> None:
    clock, mint = Clock(), Mint(life=100)
    tokens = AccessTokens(mint, clock)
    tokens.get()
    clock.elapsed += 49
    assert tokens.get() == "token1"
    clock.elapsed += 1
    assert tokens.get() == "token2"


def test_an_absurd_life_is_not_believed() -> None:
    clock, mint = Clock(), Mint(life=1e9)
    tokens = AccessTokens(mint, clock)
    tokens.get()
    clock.elapsed += 3600
    assert tokens.get() == "token2"


def test_only_the_token_that_was_refused_is_dropped() -> None:
    mint = Mint()
    tokens = AccessTokens(mint, Clock())
    tokens.get()
    tokens.drop("another")
    assert tokens.get() == "token1"
    tokens.drop("token1")
    assert tokens.get() == "token2"


def test_a_failure_is_not_kept_for_those_who_come_later() -> None:
    clock, mint = Clock(), Mint()
    mint.error = SourceError("down", code="source_unreachable", retry_after_seconds=3)
    tokens = AccessTokens(mint, clock)
    with pytest.raises(SourceError):
        tokens.get()
    mint.error = None
    clock.elapsed += 0.001
    assert tokens.get() == "token2"


def test_those_who_waited_share_one_failure() -> None:
    """Sixty threads behind a server that is down wait once, not sixty times."""
    may_end, inside = threading.Event(), threading.Event()
    count = 0

    def mint() -> AccessToken:
        nonlocal count
        count += 1
        inside.set()
        may_end.wait(5)
        raise SourceError("down", code="source_slow")

    tokens = AccessTokens(mint, Clock())
    errors: list[SourceError] = []

    def ask() -> None:
        try:
            tokens.get()
        except SourceError as error:
            error.message += " seen"  # as the worker completes it
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    inside.wait(5)
    may_end.set()
    for thread in threads:
        thread.join(5)
    assert count == 1
    assert [error.message for error in errors] == ["down seen"] * 8


def test_it_shows_nothing() -> None:
    tokens = AccessTokens(lambda: AccessToken(SENTINEL, 3600), Clock())
    tokens.get()
    assert SENTINEL not in f"{tokens!r} {AccessToken(SENTINEL, 1)!r} {vars(tokens)!r}"
