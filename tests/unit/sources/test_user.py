"""A person's login: its audience is the OAuth client, and everything says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.standins import google as kinds
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from tests.unit.fakes import SENTINEL
from tests.unit.sources.helpers import bad_file, of_file, refused, verified


def test_the_token_is_for_the_client_of_the_login(google: GoogleStandIn, tmp_path: Path) -> None:
    file = google.authorized_user_file("person@example.com")
    source = of_file(tmp_path, file)
    claims = verified(google, source, really=file["client_id"])
    assert claims["email"] == "person@example.com"
    assert source.kind == "user login"
    assert file["client_id"] in source.note
    assert "impersonate a service account" in source.note


def test_a_token_for_another_client_is_not_taken(google: GoogleStandIn, tmp_path: Path) -> None:
    source = of_file(tmp_path, google.authorized_user_file())
    google.fail(kinds.TOKEN, Fault.wrong_audience("https://receiver.example"))
    assert refused(source).code == "token_rejected"


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ('{"error": "invalid_grant", "error_description": "SENTINEL"}', 400, "invalid_grant"),
        ('{"error": "invalid_grant", "error_subtype": "invalid_rapt"}', 400, "invalid_rapt"),
        ('{"error": "invalid_client"}', 401, "invalid_client"),
    ],
)
def test_an_ended_login_says_how_to_log_in_again(
    google: GoogleStandIn, tmp_path: Path, body: str, status: int, expected: str
) -> None:
    source = of_file(tmp_path, google.authorized_user_file())
    google.fail(kinds.TOKEN, Fault.error(status, body=body.replace("SENTINEL", SENTINEL)))
    error = refused(source)
    assert (error.code, error.permanent) == ("login_refused", True)
    assert expected in error.message
    assert "gcloud auth application-default login" in error.message
    assert SENTINEL not in error.message


def test_a_revoked_login(google: GoogleStandIn, tmp_path: Path) -> None:
    file = google.authorized_user_file()
    source = of_file(tmp_path, file)
    google.directory.revoke(file["refresh_token"])
    assert refused(source).code == "login_refused"


def test_a_login_without_openid(google: GoogleStandIn, tmp_path: Path) -> None:
    source = of_file(tmp_path, google.authorized_user_file())
    google.fail(kinds.TOKEN, Fault.garbage(f'{{"access_token": "{SENTINEL}", "expires_in": 9}}'))
    error = refused(source)
    assert error.code == "no_id_token"
    assert "openid" in error.message
    assert SENTINEL not in error.message


@pytest.mark.parametrize("fault", [Fault.garbage(SENTINEL), Fault.garbage("[]"), Fault.close()])
def test_other_answers(google: GoogleStandIn, tmp_path: Path, fault: Fault) -> None:
    source = of_file(tmp_path, google.authorized_user_file())
    google.fail(kinds.TOKEN, fault)
    error = refused(source)
    assert error.code in ("source_nonsense", "source_unreachable")
    assert SENTINEL not in error.message


def test_bad_files(google: GoogleStandIn, tmp_path: Path) -> None:
    file = google.authorized_user_file()
    for name in ("client_id", "client_secret", "refresh_token"):
        for value in (None, "", 5, ["x"]):
            error = bad_file(tmp_path, file | {name: value})
            assert error.code == "bad_user_file"
            assert name in error.message
    assert bad_file(tmp_path, file | {"token_uri": "https://evil.example/"}).code == (
        "untrusted_endpoint"
    )
    assert bad_file(tmp_path, file | {"universe_domain": "evil.example"}).code == (
        "untrusted_endpoint"
    )


def test_without_a_token_uri_it_is_googles(google: GoogleStandIn, tmp_path: Path) -> None:
    file = {n: v for n, v in google.authorized_user_file().items() if n != "token_uri"}
    of_file(tmp_path, file)


@pytest.mark.parametrize("kind", ["external_account_authorized_user", "gdch_service_account", 7])
def test_types_that_we_cannot_use_say_so(tmp_path: Path, kind: object) -> None:
    error = bad_file(tmp_path, {"type": kind})
    assert error.code == "unsupported_credential"
    assert "authorized_user" in error.message
