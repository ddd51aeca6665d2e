"""The issuer mints what Google mints; the verifier tells each defect by a stable word."""

from __future__ import annotations

import json
import urllib.error
from typing import Any

import pytest

from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Issuer, SigningKey
from ext_authz.standins.verifier import TokenRejectedError, TokenVerifier
from tests.unit.standins.conftest import AUDIENCE, FakeClock, fetch


def reason_for(verifier: TokenVerifier, token: str) -> str:
    """Return the word by which a token is rejected."""
    with pytest.raises(TokenRejectedError) as caught:
        verifier.verify(token, {AUDIENCE})
    assert str(caught.value) == f"the token was rejected: {caught.value.reason}"
    return caught.value.reason


def test_a_token_has_googles_claims_and_verifies(issuer: Issuer, clock: FakeClock) -> None:
    """Audience, subject, e-mail and an hour of life are there."""
    claims = TokenVerifier(issuer).verify(issuer.mint(AUDIENCE, "a@b.example"), {AUDIENCE})
    assert claims["iss"] == "https://accounts.google.com"
    assert (claims["aud"], claims["email"], claims["email_verified"]) == (
        AUDIENCE,
        "a@b.example",
        True,
    )
    assert claims["sub"] == claims["azp"]
    assert len(claims["sub"]) == 21
    assert (claims["iat"], claims["exp"]) == (int(clock.now), int(clock.now) + 3600)


def test_without_email_the_claims_lack_it(issuer: Issuer) -> None:
    """Google's format=standard carries no e-mail."""
    assert "email" not in issuer.claims(AUDIENCE, "a@b.example", with_email=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aud": "https://other.example"}, "wrong_audience"),
        ({"aud": [AUDIENCE]}, "wrong_audience"),
        ({"iss": "https://evil.example"}, "wrong_issuer"),
        ({"exp": 1}, "expired"),
        ({"exp": "9999999999"}, "malformed"),
        ({"iat": 99999999999}, "not_yet_valid"),
    ],
)
def test_each_wrong_claim_has_its_reason(
    issuer: Issuer, change: dict[str, Any], reason: str
) -> None:
    """A signature alone does not make a token good."""
    token = issuer.mint(AUDIENCE, "a@b.example", **change)
    assert reason_for(TokenVerifier(issuer), token) == reason


def test_foreign_and_broken_tokens_are_told_apart(
    issuer: Issuer, keys: tuple[SigningKey, SigningKey]
) -> None:
    """Unknown keys, changed signatures and junk each have their word."""
    verifier = TokenVerifier(issuer)
    token = issuer.mint(AUDIENCE)
    changed = token[:-20] + ("A" * 20 if token[-20:] != "A" * 20 else "B" * 20)
    assert reason_for(verifier, changed) == "bad_signature"
    assert reason_for(verifier, keys[1].sign({"aud": AUDIENCE})) == "unknown_key"
    for junk in ("", "abc", "a.b.c", "ya29.access-token", "é.é.é"):
        assert reason_for(verifier, junk) == "malformed"


def test_a_token_dies_at_its_expiry(issuer: Issuer, clock: FakeClock) -> None:
    """The verifier reads the issuer's clock."""
    token = issuer.mint(AUDIENCE)
    clock.now += 3599
    TokenVerifier(issuer).verify(token, {AUDIENCE})
    clock.now += 1
    assert reason_for(TokenVerifier(issuer), token) == "expired"


def test_rotation_keeps_older_tokens_good(issuer: Issuer) -> None:
    """Both keys are published and both verify."""
    verifier, old = TokenVerifier(issuer), issuer.mint(AUDIENCE)
    issuer.rotate()
    for token in (old, issuer.mint(AUDIENCE)):
        verifier.verify(token, {AUDIENCE})
    assert len(issuer.jwks()["keys"]) == 2
    published = [key.key_id for key in issuer.keys()]  # noqa: SIM118 (not a mapping)
    assert sorted(issuer.certificates()) == sorted(published)


def test_a_verifier_reads_its_keys_from_a_url(google: GoogleStandIn) -> None:
    """A receiver in another container verifies by JWKS; fetched once for many tokens."""
    verifier = TokenVerifier(google.jwks_url, clock=google.issuer.clock)
    for _ in range(3):
        verifier.verify(google.issuer.mint(AUDIENCE), {AUDIENCE})
    assert google.count("certs") == 1


def test_unreachable_keys_reject_every_token(google: GoogleStandIn) -> None:
    """No keys, no admission."""
    verifier = TokenVerifier(google.jwks_url, clock=google.issuer.clock)
    google.down()
    assert reason_for(verifier, google.issuer.mint(AUDIENCE)) == "unknown_key"


def test_private_keys_and_tokens_stay_out_of_repr(issuer: Issuer) -> None:
    """What shows in logs holds no secret."""
    assert "PRIVATE" not in repr(issuer.signing_key) + repr(issuer)


def test_down_refuses_connections_and_up_keeps_the_port(google: GoogleStandIn) -> None:
    """An outage leaves the address as it was."""
    port = google.port
    google.down()
    with pytest.raises(urllib.error.URLError):
        fetch(google.jwks_url)
    google.up()
    assert google.port == port
    assert json.loads(fetch(google.jwks_url).body) == google.issuer.jwks()
