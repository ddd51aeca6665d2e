"""Impersonation: the source's access token, then IAM; chains, grants, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.sources import AccessTokenSource
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.metadata import MetadataSource
from ext_authz.standins import google as kinds
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import SigningKey
from tests.unit.fakes import AUDIENCE, SENTINEL
from tests.unit.sources.conftest import EMAIL
from tests.unit.sources.helpers import MIDDLE, ROBOT, bad_file, of_file, refused, verified

PERSON = "person@example.com"
FEDERATED = (
    "principal://iam.googleapis.com/projects/123456789012/locations/global/"
    "workloadIdentityPools/local/subject/workload"
)


@pytest.fixture
def grants(google: GoogleStandIn) -> GoogleStandIn:
    """Let the machine, a person and the middle act as the robot; the machine also as the middle."""
    google.directory.grant_token_creator(ROBOT, EMAIL, PERSON, MIDDLE)
    google.directory.grant_token_creator(MIDDLE, EMAIL)
    return google


def by_metadata(google: GoogleStandIn, *delegates: str, email: str = ROBOT) -> ImpersonationSource:
    source = MetadataSource(google.metadata_host)
    return ImpersonationSource(source, Target(email, delegates), google.public_url)


def test_the_token_is_the_robots_and_has_its_email(grants: GoogleStandIn) -> None:
    source = by_metadata(grants)
    claims = verified(grants, source)
    assert (claims["email"], claims["email_verified"]) == (ROBOT, True)
    assert source.kind == "impersonation"
    assert ROBOT in source.found
    assert "metadata server" in source.found
    asked = grants.requests_of(kinds.GENERATE_ID_TOKEN)[-1].json
    assert asked == {"audience": AUDIENCE, "includeEmail": True, "delegates": []}


def test_one_access_token_serves_many_audiences(grants: GoogleStandIn) -> None:
    source = by_metadata(grants)
    for number in range(3):
        source.fetch(f"https://n{number}.example")
    assert grants.count(kinds.METADATA_TOKEN) == 1
    assert grants.count(kinds.GENERATE_ID_TOKEN) == 3


@pytest.mark.parametrize("kind", ["key", "user", "federation", "impersonation", "metadata"])
def test_every_google_identity_can_be_the_source(
    grants: GoogleStandIn, tmp_path: Path, key: SigningKey, kind: str
) -> None:
    target = "target@local-project.iam.gserviceaccount.com"
    grants.directory.grant_token_creator(target, EMAIL, PERSON, ROBOT)
    sources: dict[str, AccessTokenSource] = {
        "key": of_file(tmp_path, grants.service_account_key(ROBOT, key)),
        "user": of_file(tmp_path, grants.authorized_user_file(PERSON)),
        "federation": of_file(tmp_path, grants.external_account_file(impersonate=ROBOT)),
        "impersonation": by_metadata(grants),
        "metadata": MetadataSource(grants.metadata_host),
    }
    source = ImpersonationSource(sources[kind], Target(target), grants.public_url)
    assert verified(grants, source)["email"] == target


def test_a_delegation_chain_is_sent_in_order(grants: GoogleStandIn) -> None:
    assert verified(grants, by_metadata(grants, MIDDLE))["email"] == ROBOT
    delegates = grants.requests_of(kinds.GENERATE_ID_TOKEN)[-1].json["delegates"]
    assert delegates == [f"projects/-/serviceAccounts/{MIDDLE}"]


def test_a_missing_grant_names_permission_and_command(
    google: GoogleStandIn, tmp_path: Path
) -> None:
    google.directory.add_service_account("lonely@p.iam.gserviceaccount.com")
    error = refused(by_metadata(google, email="lonely@p.iam.gserviceaccount.com"))
    assert (error.code, error.permanent) == ("iam_permission_denied", True)
    for expected in (
        "answered 403 PERMISSION_DENIED IAM_PERMISSION_DENIED",
        "iam.serviceAccounts.getOpenIdToken",
        "gcloud iam service-accounts add-iam-policy-binding lonely@p.iam.gserviceaccount.com",
        "--role=roles/iam.serviceAccountOpenIdTokenCreator",
    ):
        assert expected in error.message
    assert "may not exist" not in error.message, "a sentence of the body"


def test_a_missing_link_of_a_chain_names_the_token_creator(grants: GoogleStandIn) -> None:
    grants.directory.revoke_token_creator(MIDDLE, EMAIL)
    error = refused(by_metadata(grants, MIDDLE))
    assert f"{MIDDLE} -> {ROBOT}" in error.message
    assert "roles/iam.serviceAccountTokenCreator" in error.message


def test_a_federated_principal_is_named_by_its_pool(google: GoogleStandIn, tmp_path: Path) -> None:
    file = google.external_account_file(impersonate="own@p.iam.gserviceaccount.com")
    google.directory.revoke_token_creator("own@p.iam.gserviceaccount.com", FEDERATED)
    error = refused(of_file(tmp_path, file))
    assert "'principalSet://iam.googleapis.com/projects/123456789012/" in error.message
    assert "roles/iam.workloadIdentityUser" in error.message


@pytest.mark.parametrize(
    ("fault", "code", "permanent", "expected"),
    [
        (
            Fault.error(404, body=SENTINEL),
            "iam_account_not_found",
            True,
            "no service account",
        ),
        (Fault.error(400, body=SENTINEL), "iam_bad_request", True, "check the audience"),
        (Fault.error(429, retry_after=9, body=SENTINEL), "iam_throttled", False, "quota"),
        (Fault.error(500, body=SENTINEL), "source_refused", False, "answered 500"),
        (Fault.error(503, body=SENTINEL), "source_refused", False, "answered 503"),
        (Fault.error(401, body=SENTINEL), "iam_unauthenticated", False, "access token"),
        (
            Fault.error(403, body='{"error": {"details": [{"reason": "SERVICE_DISABLED"}]}}'),
            "iam_permission_denied",
            True,
            "gcloud services enable iamcredentials.googleapis.com",
        ),
        (
            Fault.error(
                403, body='{"error": {"details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}}'
            ),
            "iam_permission_denied",
            True,
            "scope cloud-platform",
        ),
        (Fault.garbage(SENTINEL), "source_nonsense", False, "not a token"),
        (Fault.garbage("[]"), "source_nonsense", False, "not a token"),
        (Fault.garbage('{"token": 5}'), "token_rejected", False, "JWT"),
        (Fault.redirect("http://127.0.0.1:1/"), "source_refused", False, "answered 302"),
        (Fault.reset(), "source_unreachable", False, "IAM"),
        (Fault.wrong_audience(), "token_rejected", False, "expected a token for audience"),
        (Fault.expired(), "token_rejected", False, "clock"),
    ],
)
def test_what_iam_answers(
    grants: GoogleStandIn, fault: Fault, code: str, permanent: bool, expected: str
) -> None:
    source = by_metadata(grants)
    grants.fail(kinds.GENERATE_ID_TOKEN, fault)
    error = refused(source)
    assert (error.code, error.permanent) == (code, permanent)
    assert expected in error.message
    assert SENTINEL not in error.message
    assert error.retry_after_seconds == (9 if fault.status == 429 else None)


def test_a_refused_access_token_is_not_used_again(grants: GoogleStandIn) -> None:
    source = by_metadata(grants)
    grants.fail(kinds.GENERATE_ID_TOKEN, Fault.error(401))
    refused(source)
    grants.heal()
    assert verified(grants, source)["email"] == ROBOT
    assert grants.count(kinds.METADATA_TOKEN) == 2


def test_a_failure_of_the_source_is_told_as_such(google: GoogleStandIn) -> None:
    google.fail(kinds.METADATA_TOKEN, Fault.error(404, body=SENTINEL))
    error = refused(by_metadata(google))
    assert "the metadata server" in error.message
    assert "has no service account" in error.message
    google.fail(kinds.METADATA_TOKEN, Fault.garbage('{"access_token": "a b", "expires_in": 5}'))
    assert refused(by_metadata(google)).code == "source_nonsense"
    google.fail(kinds.METADATA_TOKEN, Fault.garbage('{"expires_in": 5}'))
    assert refused(by_metadata(google)).code == "source_nonsense"


def test_a_file_of_an_impersonating_login(
    grants: GoogleStandIn, tmp_path: Path, key: SigningKey
) -> None:
    """What `gcloud auth application-default login --impersonate-service-account` writes."""
    person = grants.impersonated_file(ROBOT, grants.authorized_user_file(PERSON))
    source = of_file(tmp_path, person)
    assert verified(grants, source)["email"] == ROBOT
    assert f"({ROBOT} by user login)" in source.found
    grants.directory.grant_token_creator(MIDDLE, "ci@p.iam.gserviceaccount.com")
    by_key = grants.impersonated_file(
        ROBOT, grants.service_account_key("ci@p.iam.gserviceaccount.com", key), delegates=(MIDDLE,)
    )
    assert verified(grants, of_file(tmp_path, by_key))["email"] == ROBOT


def test_bad_files_of_an_impersonating_login(google: GoogleStandIn, tmp_path: Path) -> None:
    inner = google.authorized_user_file()
    good = google.impersonated_file(ROBOT, inner)
    assert bad_file(tmp_path, good | {"source_credentials": good}).code == "bad_key_file"
    assert bad_file(tmp_path, good | {"source_credentials": None}).code == "bad_key_file"
    assert bad_file(tmp_path, good | {"delegates": [5]}).code == "bad_key_file"
    for url in ("https://evil.example/x", 5, None):
        other = good | {"service_account_impersonation_url": url}
        assert bad_file(tmp_path, other).code == "bad_federation_file"
    evil = f"https://evil.example/v1/projects/-/serviceAccounts/{ROBOT}:generateAccessToken"
    other = good | {"service_account_impersonation_url": evil}
    assert bad_file(tmp_path, other).code == "untrusted_endpoint"
