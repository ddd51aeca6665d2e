"""Tokens: which texts are taken, when they are renewed, and when they may no longer be sent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.clock import Now
from ext_authz.errors import SourceError
from ext_authz.tokens import (
    MAX_TOKEN_LENGTH,
    METADATA_REFRESH_SECONDS,
    SAFETY_MARGIN_SECONDS,
    Fetched,
    Token,
    TokenState,
    accept,
    age_seconds,
    refresh_point,
    seconds_left,
    state_of,
    unverified_claims,
)
from tests.unit.fakes import AUDIENCE, SENTINEL, START, jwt

NOW = Now(START, 100.0)
GOOD = {"aud": AUDIENCE, "exp": int(START + 3600)}


def accepted(claims: object, *, jitter: float = 0.5) -> Token:
    return accept(Fetched(jwt(claims)), AUDIENCE, NOW, jitter)


def test_a_good_token_is_taken_with_its_own_expiry() -> None:
    token = accepted(GOOD)
    assert token.text == jwt(GOOD)
    assert token.expires_at == START + 3600
    assert token.life_seconds == 3600
    assert token.obtained == NOW
    assert state_of(token, NOW) is TokenState.FRESH


@pytest.mark.parametrize(
    "claims",
    [
        GOOD | {"aud": [AUDIENCE]},
        GOOD | {"exp": START + 3600.5},
        GOOD | {"exp": int(START + SAFETY_MARGIN_SECONDS + 1)},
        GOOD | {"aud": AUDIENCE, "more": {"deep": ["x" * 5000]}},
    ],
)
def test_these_claims_are_taken(claims: object) -> None:
    assert accepted(claims)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "a.b",
        "a.b.c",
        "AAAA.BBBB.CCCC",
        "a.b.c.d",
        "a..c",
        "a.é.c",
        "<html>not a token</html>",
        jwt(GOOD) + "\n",
        jwt(GOOD) + " x",
        "a.e30=.c",
        "a.eyJhIjoxfQ" + "A" * MAX_TOKEN_LENGTH + ".c",
        "x.W10.x",
        "x.bnVsbA.x",
        "x.gICA.x",
        jwt("[" * 5000),
        "x." + "W1tb" * 3000 + ".x",
    ],
)
def test_what_is_no_jwt_is_rejected(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        accept(Fetched(text), AUDIENCE, NOW, 0.5)
    assert caught.value.code == "token_rejected"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"aud": AUDIENCE}, r"\(exp\) as a number"),
        (GOOD | {"exp": None}, r"\(exp\) as a number"),
        (GOOD | {"exp": str(START + 3600)}, r"\(exp\) as a number"),
        (GOOD | {"exp": True}, r"\(exp\) as a number"),
        (GOOD | {"exp": [START]}, r"\(exp\) as a number"),
        (GOOD | {"exp": math.nan}, "exp"),
        (GOOD | {"exp": math.inf}, "within ten years"),
        (GOOD | {"exp": -math.inf}, "exp"),
        (GOOD | {"exp": 10**20}, "within ten years"),
        (GOOD | {"exp": 10**400}, "within ten years"),
        (GOOD | {"exp": -(10**400)}, "exp"),
        (GOOD | {"exp": int(START - 3600)}, "clock"),
        (GOOD | {"exp": int(START + SAFETY_MARGIN_SECONDS)}, "longer than 60 s"),
        (GOOD | {"exp": 0}, "set this machine's clock"),
        ({"exp": GOOD["exp"]}, "audience"),
        (GOOD | {"aud": "https://evil.example"}, "got one for https://evil.example"),
        (GOOD | {"aud": AUDIENCE + "/"}, "audience"),
        (GOOD | {"aud": AUDIENCE.upper()}, "audience"),
        (GOOD | {"aud": [AUDIENCE, "https://evil.example"]}, "audience"),
        (GOOD | {"aud": []}, "audience"),
        (GOOD | {"aud": {"a": 1}}, "audience"),
        (GOOD | {"aud": None}, "audience"),
        (GOOD | {"aud": "x" * 5000}, "audience"),
    ],
)
def test_claims_that_cannot_be_trusted_are_rejected(claims: object, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence) as caught:
        accepted(claims)
    assert caught.value.code == "token_rejected"
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("audience", ["\ud800", "two\nlines", "tab\tnul\x00"])
def test_the_sentence_stays_one_plain_line_whatever_the_audience_says(audience: str) -> None:
    with pytest.raises(SourceError) as caught:
        accepted(GOOD | {"aud": audience})
    assert caught.value.message.encode()
    assert caught.value.message.isprintable()


@given(st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_no_text_at_all_does_more_than_be_rejected(text: str) -> None:
    with pytest.raises(SourceError):
        accept(Fetched(text), AUDIENCE, NOW, 0.5)


texts = st.text(alphabet="aZ09:/.\n\x00é", max_size=300)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({"aud": json_values | st.just(AUDIENCE), "exp": json_values}))
def test_no_claims_at_all_raise_anything_but_source_error(claims: dict[str, object]) -> None:
    try:
        token = accepted(claims)
    except SourceError:
        return
    assert token.expires_at > START + SAFETY_MARGIN_SECONDS


def test_a_static_token_has_no_expiry_and_is_rechecked() -> None:
    token = accept(Fetched("opaque", recheck_seconds=10), "", NOW, 0.5)
    assert token.expires_at == math.inf
    assert state_of(token, NOW) is TokenState.FRESH
    assert state_of(token, Now(START + 11, 111.0)) is TokenState.STALE
    assert state_of(token, Now(START + 10**9, 10.0**9)) is TokenState.STALE


@pytest.mark.parametrize(("jitter", "after"), [(0.0, 1620), (0.5, 1800), (1.0, 1980)])
def test_a_source_that_mints_anew_is_asked_again_at_half_life(jitter: float, after: float) -> None:
    point = refresh_point(START + 3600, NOW, Fetched("", mints_anew=True), jitter)
    assert point == pytest.approx(START + after)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_metadata_server_is_asked_again_just_before_225_seconds_are_left(jitter: float) -> None:
    point = refresh_point(START + 3600, NOW, Fetched("", mints_anew=False), jitter)
    left = START + 3600 - point
    assert METADATA_REFRESH_SECONDS * 0.9 <= left <= METADATA_REFRESH_SECONDS
    assert left > SAFETY_MARGIN_SECONDS + 100


def test_a_short_lived_token_of_the_metadata_server_is_renewed_at_half_of_what_is_left() -> None:
    point = refresh_point(START + 300, NOW, Fetched("", mints_anew=False), 0.5)
    assert point == START + 150


def test_the_states_follow_one_another() -> None:
    token = accepted(GOOD)
    states = [state_of(token, Now(START + age, 100.0 + age)) for age in (0, 1799, 1800, 3539, 3540)]
    fresh, stale, expired = TokenState.FRESH, TokenState.STALE, TokenState.EXPIRED
    assert states == [fresh, fresh, stale, stale, expired]


def test_the_age_is_what_the_clock_that_says_more_says() -> None:
    token = accepted(GOOD)
    assert age_seconds(token, Now(START - 7200, 100.0 + 60)) == 60
    assert age_seconds(token, Now(START + 90, 100.0)) == 90
    assert seconds_left(token, Now(START - 7200, 100.0 + 60)) == 3540


clocks = st.integers(min_value=-(10**9), max_value=10**9)


@given(
    life=st.integers(min_value=61, max_value=10**8),
    jitter=st.floats(min_value=0, max_value=1),
    mints_anew=st.booleans(),
    wall=clocks,
    elapsed=clocks,
)
def test_whatever_the_clocks_do_no_token_is_served_inside_its_margin(
    life: int, jitter: float, mints_anew: bool, wall: int, elapsed: int
) -> None:
    expires_at = START + life
    claims = GOOD | {"exp": int(expires_at)}
    token = accept(Fetched(jwt(claims), mints_anew=mints_anew), AUDIENCE, NOW, jitter)
    now = Now(START + wall, NOW.elapsed + elapsed)
    if now.wall >= expires_at - SAFETY_MARGIN_SECONDS or elapsed >= life - SAFETY_MARGIN_SECONDS:
        assert state_of(token, now) is TokenState.EXPIRED
    else:
        assert state_of(token, now) is not TokenState.EXPIRED


@given(st.integers(min_value=61, max_value=10**8), st.floats(0, 1), st.booleans())
def test_a_newer_token_is_always_wanted_before_the_old_one_ends(
    life: int, jitter: float, mints_anew: bool
) -> None:
    point = refresh_point(START + life, NOW, Fetched("", mints_anew=mints_anew), jitter)
    assert START < point < START + life
    if life >= 400:
        assert point < START + life - SAFETY_MARGIN_SECONDS


def test_no_representation_shows_the_text() -> None:
    text = jwt(GOOD | {"secret": SENTINEL}, signature=SENTINEL)
    fetched = Fetched(text)
    token = accept(fetched, AUDIENCE, NOW, 0.5)
    for shown in (repr(fetched), str(fetched), repr(token), str(token), f"{token!s:>10}"):
        assert SENTINEL not in shown
        assert text[:30] not in shown


def test_the_fingerprint_names_a_token_without_giving_it_away() -> None:
    one, other = accepted(GOOD), accepted(GOOD | {"more": 1})
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == accepted(GOOD).fingerprint
    assert 16 <= len(one.fingerprint) <= 32
    assert one.fingerprint not in one.text


def test_claims_can_be_read_of_any_token() -> None:
    assert unverified_claims(jwt({"exp": 1, "sub": "é"})) == {"exp": 1, "sub": "é"}
