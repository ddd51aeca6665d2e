"""The key source against the stand-in: a signed assertion for a token, and every bad key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import jwt as google_jwt

from ext_authz.clock import system_clock
from ext_authz.errors import SourceError
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.service_account import ServiceAccountSource
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import SigningKey
from ext_authz.tokens import accept
from tests.unit.fakes import AUDIENCE, SENTINEL

ROBOT = "robot@local-project.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def issued(serving: GoogleStandIn, key: SigningKey) -> dict[str, Any]:
    return dict(serving.service_account_key(ROBOT, key))


@pytest.fixture(scope="module")
def robot(issued: dict[str, Any]) -> ServiceAccountSource:
    """Return one source for all tests: reading its key is the slow part."""
    return source(issued)


@pytest.fixture
def info(issued: dict[str, Any]) -> dict[str, Any]:
    return dict(issued)


def source(info: dict[str, Any]) -> ServiceAccountSource:
    return ServiceAccountSource(info, "key.json", EndpointGuard())


def bad(info: dict[str, Any]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        source(info)
    error = caught.value
    assert error.permanent
    assert "key.json" in error.message
    assert SENTINEL not in f"{error!r} {error.__cause__!r}"
    assert "PRIVATE KEY" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    return error


def test_it_exchanges_a_signed_assertion_for_a_token_of_the_audience(
    google: GoogleStandIn, robot: ServiceAccountSource
) -> None:
    fetched = robot.fetch(AUDIENCE)
    certificates = google.issuer.certificates()
    claims = google_jwt.decode(fetched.text, certs=certificates, audience=AUDIENCE)
    assert claims["email"] == ROBOT == robot.principal
    assert fetched.mints_anew
    assert google.count("token") == 1
    assert robot.found == "key.json"
    assert accept(fetched, AUDIENCE, system_clock(), 0.5)


def test_each_fetch_is_a_call_of_its_own_and_audiences_do_not_mix(
    google: GoogleStandIn, robot: ServiceAccountSource
) -> None:
    for audience in (AUDIENCE, "https://other.run.app", AUDIENCE):
        assert accept(robot.fetch(audience), audience, system_clock(), 0.5)
    assert google.count("token") == 3


@pytest.mark.parametrize("missing", ["client_email", "private_key", "token_uri", "type"])
@pytest.mark.parametrize("value", [None, "", 7, [SENTINEL], {"a": SENTINEL}])
def test_a_key_without_one_of_its_parts_is_refused(
    info: dict[str, Any], missing: str, value: object
) -> None:
    error = bad(info | {missing: value})
    assert error.code == "bad_key_file"
    assert missing in error.message


@pytest.mark.parametrize(
    "private_key",
    [
        SENTINEL,
        f"-----BEGIN PRIVATE KEY-----\n{SENTINEL}\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "\x00",
        "é",
    ],
)
def test_a_private_key_that_cannot_be_read_is_refused(
    info: dict[str, Any], private_key: str
) -> None:
    assert bad(info | {"private_key": private_key}).code == "bad_key_file"


def test_a_private_key_that_is_not_rsa_is_refused_at_once(info: dict[str, Any]) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert bad(info | {"private_key": pem.decode()}).code == "bad_key_file"


@pytest.mark.parametrize("kind", ["authorized_user", "external_account", "x" * 500])
def test_another_type_of_file_is_refused(info: dict[str, Any], kind: str) -> None:
    error = bad(info | {"type": kind})
    assert "type service_account" in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"token_uri": "https://evil.example/token"},
        {"token_uri": "https://evil.example\\.googleapis.com/token"},
        {"token_uri": "http://oauth2.googleapis.com/token"},
        {"universe_domain": "evil.example"},
        {"universe_domain": "evil.example/.googleapis.com"},
        {"universe_domain": ["googleapis.com"]},
    ],
)
def test_a_hostile_file_cannot_choose_where_the_assertion_goes(
    info: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert bad(info | changes).code in ("untrusted_endpoint", "bad_key_file")


def test_a_listed_endpoint_is_used(info: dict[str, Any]) -> None:
    guard = EndpointGuard(("https://tokens.example",))
    found = ServiceAccountSource(info | {"token_uri": "https://tokens.example/t"}, "k", guard)
    assert found.principal == ROBOT


@pytest.mark.parametrize(
    ("fault", "code", "permanent"),
    [
        (Fault.error(400, body='{"error":"invalid_grant"}'), "source_refused", True),
        (Fault.error(503, retry_after=5), "source_refused", False),
        (Fault.garbage(SENTINEL), "source_nonsense", False),
        (Fault.garbage("{}"), "source_nonsense", False),
        (Fault.garbage('{"id_token": 7}'), "source_nonsense", False),
        (Fault.garbage(json.dumps({"id_token": SENTINEL})), "source_nonsense", False),
        (Fault.garbage("[]"), "source_nonsense", False),
        (Fault.huge(200_000), "source_nonsense", False),
        (Fault.reset(), "source_unreachable", False),
    ],
)
def test_every_failure_of_the_endpoint_is_a_source_error(
    google: GoogleStandIn, robot: ServiceAccountSource, fault: Fault, code: str, permanent: bool
) -> None:
    google.fail("token", fault)
    with pytest.raises(SourceError) as caught:
        robot.fetch(AUDIENCE)
    error = caught.value
    assert (error.code, error.permanent) == (code, permanent)
    assert SENTINEL not in f"{error} {error.__cause__!r}"
    assert google.count("token") == 1


def test_a_key_that_was_revoked_says_invalid_grant(
    google: GoogleStandIn, info: dict[str, Any]
) -> None:
    unknown = info | {"client_email": "gone@local-project.iam.gserviceaccount.com"}
    with pytest.raises(SourceError, match="answered 400 invalid_grant") as caught:
        source(unknown).fetch(AUDIENCE)
    assert caught.value.permanent


def test_no_representation_shows_the_key(robot: ServiceAccountSource) -> None:
    assert "PRIVATE" not in f"{robot!r} {robot!s}"
