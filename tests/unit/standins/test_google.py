"""The stand-in Google answers as the real one does, to plain HTTP and to google-auth itself."""

from __future__ import annotations

import email.utils
from typing import Any

import pytest
from google.auth import compute_engine as google_auth
from google.auth import identity_pool
from google.auth.compute_engine import _metadata
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2 import id_token, service_account

from ext_authz.standins import google as kinds
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import SigningKey
from ext_authz.standins.verifier import TokenVerifier
from tests.unit.standins.conftest import AUDIENCE, Answer, FakeClock, bearer, fetch

FLAVOR = {"Metadata-Flavor": "Google"}
Keys = tuple[SigningKey, SigningKey]
ROBOT = "robot@local-project.iam.gserviceaccount.com"
MIDDLE = "middle@local-project.iam.gserviceaccount.com"


def metadata(google: GoogleStandIn, path: str, **headers: str) -> Answer:
    """Ask the metadata server."""
    return fetch(f"{google.url}/computeMetadata/v1/{path}", headers=headers or FLAVOR)


def identity(google: GoogleStandIn, query: str = f"audience={AUDIENCE}") -> str:
    """Ask the metadata server for an ID token."""
    path = f"instance/service-accounts/default/identity?{query}"
    answer = metadata(google, path)
    assert answer.status == 200, answer.text
    return answer.text


def test_metadata_facts_and_flavor(google: GoogleStandIn) -> None:
    """Project, region and account are there; the answer names its flavor."""
    for path, expected in {
        "project/project-id": "local-project",
        "project/numeric-project-id": "123456789012",
        "instance/region": "projects/123456789012/regions/europe-west1",
        "instance/service-accounts/default/email": google.metadata.email,
    }.items():
        answer = metadata(google, path)
        assert (answer.status, answer.text) == (200, expected)
        assert answer.headers["Metadata-Flavor"] == "Google"
    recursive = metadata(google, "instance/service-accounts/default/?recursive=true").json
    assert recursive["email"] == google.metadata.email
    assert fetch(google.url + "/").headers["Metadata-Flavor"] == "Google"


def test_metadata_refuses_browsers_and_proxies(google: GoogleStandIn) -> None:
    """Without the flavor, or forwarded, a request is 403; unknown things are 404."""
    assert metadata(google, "project/project-id", Accept="*/*").status == 403
    headers = FLAVOR | {"X-Forwarded-For": "10.0.0.1"}
    assert metadata(google, "project/project-id", **headers).status == 403
    assert metadata(google, "project/nonsense").status == 404
    assert metadata(google, "instance/service-accounts/default/identity").status == 400
    google.metadata.email = None
    path = f"instance/service-accounts/default/identity?audience={AUDIENCE}"
    assert metadata(google, path).status == 404


def test_identity_formats(google: GoogleStandIn) -> None:
    """format=full adds e-mail and instance, licenses their ids."""
    verify = TokenVerifier(google.issuer).verify
    assert "email" not in verify(identity(google), {AUDIENCE})
    full = verify(identity(google, f"audience={AUDIENCE}&format=full&licenses=TRUE"), {AUDIENCE})
    assert full["email"] == google.metadata.email
    assert full["google"]["compute_engine"]["license_id"]


def test_metadata_hands_back_its_token_until_four_minutes_before(
    google: GoogleStandIn, clock: FakeClock
) -> None:
    """The server's own cache is why refreshing too early spins."""
    first = identity(google)
    clock.now += 3359
    assert identity(google) == first
    clock.now += 1
    second = identity(google)
    assert second != first
    clock.now += 5
    google.metadata.caches = False
    assert identity(google) != second


def test_google_auth_gets_a_metadata_token(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client; it reads GCE_METADATA_HOST when imported, hence the patch."""
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", google.metadata_host)
    make: Any = google_auth.IDTokenCredentials
    credentials = make(None, AUDIENCE, use_metadata_identity_endpoint=True, bind_id_token=False)
    credentials.refresh(Request())
    assert TokenVerifier(google.issuer).verify(credentials.token, {AUDIENCE})
    assert google.count(kinds.IDENTITY) == 1


def id_token_by_key(info: dict[str, str]) -> str:
    """Return the ID token that google-auth gets with a key file's content."""
    load: Any = service_account.IDTokenCredentials.from_service_account_info
    credentials = load(info, target_audience=AUDIENCE)
    credentials.refresh(Request())
    return str(credentials.token)


def test_google_auth_gets_a_token_by_key(google: GoogleStandIn, keys: Keys) -> None:
    """The assertion's signature is checked, and google-auth's own verifier takes the answer."""
    token = id_token_by_key(google.service_account_key(ROBOT, keys[1]))
    url = google.certificates_url
    assert id_token.verify_token(token, Request(), AUDIENCE, certs_url=url)["email"] == ROBOT


def test_a_key_of_somebody_else_is_refused(google: GoogleStandIn, keys: Keys) -> None:
    """A right e-mail with a wrong signature is invalid_grant, as is an unknown account."""
    google.service_account_key(ROBOT, keys[0])
    forged = google.service_account_key(MIDDLE, keys[1]) | {"client_email": ROBOT}
    with pytest.raises(RefreshError, match="Invalid JWT Signature"):
        id_token_by_key(forged)
    with pytest.raises(RefreshError, match="account not found"):
        id_token_by_key(forged | {"client_email": "nobody@x.example"})


def test_google_auth_federates_and_impersonates(google: GoogleStandIn) -> None:
    """Subject token → STS → generateAccessToken, by google-auth's identity pool credentials."""
    load: Any = identity_pool.Credentials.from_info
    credentials = load(google.external_account_file(impersonate=ROBOT)).with_scopes(["scope"])
    credentials.refresh(Request())
    found = google.directory.access_token(credentials.token)
    assert found is not None
    assert found.principal == ROBOT
    assert google.counts == {"subject_token": 1, "sts": 1, "generate_access_token": 1}


def test_sts_refuses_a_strange_subject_token(google: GoogleStandIn) -> None:
    """400 invalid_grant, as the real STS."""
    file = google.external_account_file()
    answer = fetch(
        google.sts_url,
        form={
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "audience": file["audience"],
            "subject_token": "strange",
        },
    )
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


def generate_id_token(google: GoogleStandIn, caller: str, **body: object) -> Answer:
    """Call generateIdToken for ROBOT with an access token of `caller`."""
    token = google.directory.new_access_token(caller, ("cloud-platform",))
    url = f"{google.url}/v1/projects/-/serviceAccounts/{ROBOT}:generateIdToken"
    return fetch(url, headers=bearer(token), data={"audience": AUDIENCE, **body})


def test_generate_id_token_needs_the_grant(google: GoogleStandIn) -> None:
    """403 in Google's words without it, a token with it; the e-mail only when asked for."""
    google.directory.add_service_account(ROBOT)
    denied = generate_id_token(google, "person@example.com")
    assert (denied.status, denied.json["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert denied.json["error"]["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
    google.directory.grant_token_creator(ROBOT, "person@example.com")
    verify = TokenVerifier(google.issuer).verify
    bare = generate_id_token(google, "person@example.com").json["token"]
    assert "email" not in verify(bare, {AUDIENCE})
    full = generate_id_token(google, "person@example.com", includeEmail=True).json["token"]
    assert verify(full, {AUDIENCE})["email"] == ROBOT
    assert generate_id_token(google, "person@example.com", audience="").status == 400


def test_each_link_of_a_delegation_chain_needs_its_grant(google: GoogleStandIn) -> None:
    """Caller → middle → robot."""
    google.directory.grant_token_creator(ROBOT, MIDDLE)
    chain = [f"projects/-/serviceAccounts/{MIDDLE}"]
    assert generate_id_token(google, "person@example.com", delegates=chain).status == 403
    google.directory.grant_token_creator(MIDDLE, "person@example.com")
    assert generate_id_token(google, "person@example.com", delegates=chain).status == 200
    assert generate_id_token(google, "person@example.com").status == 403
    assert google.requests_of(kinds.GENERATE_ID_TOKEN)[-2].json["delegates"] == chain


def test_unknown_callers_and_accounts(google: GoogleStandIn) -> None:
    """401 for a strange or expired access token, 404 for an account that is not there."""
    assert generate_id_token(google, "person@example.com").status == 404
    url = f"{google.url}/v1/projects/-/serviceAccounts/{ROBOT}:generateIdToken"
    assert fetch(url, headers=bearer("ya29.strange"), data={}).status == 401
    assert fetch(url, data={}).status == 401
    assert fetch(google.url + "/v1/nonsense").json["error"]["code"] == 404


def test_requests_are_recorded_and_the_date_is_the_issuers(
    google: GoogleStandIn, clock: FakeClock
) -> None:
    """Tests can see method, path, query and headers; doctor can read the clock."""
    clock.now += 86_400
    answer = fetch(f"{google.url}/computeMetadata/v1/x?a=b%20c", headers=FLAVOR)
    request = google.requests[-1]
    assert (request.method, request.path) == ("GET", "/computeMetadata/v1/x")
    assert request.query == {"a": "b c"}
    assert request.header("metadata-flavor") == "Google"
    date = email.utils.parsedate_to_datetime(answer.headers["Date"])
    assert date.timestamp() == clock.now
    google.forget()
    assert google.requests == ()
