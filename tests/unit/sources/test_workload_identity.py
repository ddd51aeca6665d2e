"""Workload identity federation: every kind of subject token, the STS, then generateIdToken."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from ext_authz.errors import SourceError
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.workload_identity import workload_source
from ext_authz.standins import google as kinds
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from tests.unit.fakes import SENTINEL
from tests.unit.sources.fake_aws import AwsMetadata, is_signed
from tests.unit.sources.helpers import ROBOT, bad_file, of_file, refused, verified

PRINCIPAL = (
    "principal://iam.googleapis.com/projects/123456789012/locations/global/"
    "workloadIdentityPools/local/subject/workload"
)


def federation(google: GoogleStandIn, source: dict[str, Any] | None = None) -> dict[str, Any]:
    return google.external_account_file(impersonate=ROBOT, credential_source=source)


def json_format(field: str = "token") -> dict[str, str]:
    return {"type": "json", "subject_token_field_name": field}


def program(tmp_path: Path, answer: object, status: int = 0) -> dict[str, Any]:
    """Return the credential_source of a program that writes `answer`."""
    path = tmp_path / "subject"
    text = answer if isinstance(answer, str) else json.dumps(answer)
    path.write_text(f"#!{sys.executable}\nprint({text!r})\nraise SystemExit({status})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"executable": {"command": str(path), "timeout_millis": 5000}}


def test_a_subject_token_from_a_url(google: GoogleStandIn, tmp_path: Path) -> None:
    source = of_file(tmp_path, federation(google))
    claims = verified(google, source)
    assert (claims["email"], claims["email_verified"]) == (ROBOT, True)
    assert google.counts == {"subject_token": 1, "sts": 1, "generate_id_token": 1}
    form = google.requests_of(kinds.STS)[-1].form
    assert form["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert source.kind == "workload identity federation"
    assert source.found == f"{tmp_path / 'file.json'} (url), acting as {ROBOT}"


def test_a_subject_token_from_a_file_is_read_anew(google: GoogleStandIn, tmp_path: Path) -> None:
    """The platform rotates it; nothing is kept but the access token."""
    subject = tmp_path / "subject"
    source = of_file(tmp_path, federation(google, {"file": str(subject)}))
    assert refused(source).code == "bad_subject_token"
    subject.write_text(google.subject_token)
    assert verified(google, source)["email"] == ROBOT
    subject.write_text(json.dumps({"token": google.subject_token}))
    both = {"file": str(subject), "format": json_format()}
    assert verified(google, of_file(tmp_path, federation(google, both)))["email"] == ROBOT


def test_a_subject_token_from_a_program(
    google: GoogleStandIn, tmp_path: Path, monkeypatch: Any
) -> None:
    """Off unless google-auth's variable is set: a file may then run what it likes."""
    answer = {
        "version": 1,
        "success": True,
        "token_type": "urn:ietf:params:oauth:token-type:jwt",
        "id_token": google.subject_token,
    }
    file = federation(google, program(tmp_path, answer))
    error = bad_file(tmp_path, file)
    assert error.code == "executable_not_allowed"
    assert "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1" in error.message
    monkeypatch.setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")
    assert verified(google, of_file(tmp_path, file, executables=True))["email"] == ROBOT


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (SENTINEL, 0),
        ({"version": 1, "success": False, "code": "1", "message": SENTINEL}, 0),
        ({"version": 1, "success": True}, 0),
        (SENTINEL, 3),
        ("", 0),
    ],
)
def test_a_program_that_fails(
    google: GoogleStandIn, tmp_path: Path, monkeypatch: Any, answer: object, status: int
) -> None:
    monkeypatch.setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")
    file = federation(google, program(tmp_path, answer, status))
    error = refused(of_file(tmp_path, file, executables=True))
    assert error.code == "bad_subject_token"
    assert SENTINEL not in error.message


def test_aws(google: GoogleStandIn, tmp_path: Path, monkeypatch: Any) -> None:
    """Metadata, role, credentials, a signed GetCallerIdentity; the STS checks the signature."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with AwsMetadata() as aws:
        file = federation(google, aws.credential_source())
        audience = file["audience"]
        google.directory.federate(
            audience, lambda token: PRINCIPAL if is_signed(token, audience) else None
        )
        source = of_file(tmp_path, file)
        assert verified(google, source)["email"] == ROBOT
        source = of_file(tmp_path, file)
        aws.fail("security-credentials", Fault.error(404, body=SENTINEL))
        error = refused(source)
        assert "AWS's metadata server" in error.message
        assert SENTINEL not in error.message
        aws.fail("security-credentials", Fault.garbage(SENTINEL))
        assert refused(of_file(tmp_path, file)).code in ("source_refused", "bad_subject_token")


def test_the_configuration_wins_over_the_file(google: GoogleStandIn) -> None:
    other = "other@local-project.iam.gserviceaccount.com"
    google.directory.grant_token_creator(other, PRINCIPAL)
    file = google.external_account_file(impersonate=ROBOT)
    source = workload_source(file, "f", EndpointGuard(), email=other)
    assert verified(google, source)["email"] == other
    alone = google.external_account_file()
    source = workload_source(
        alone, "f", EndpointGuard(), email=other, iam_endpoint=google.public_url
    )
    assert verified(google, source)["email"] == other


def test_federation_alone_gives_no_id_token(google: GoogleStandIn, tmp_path: Path) -> None:
    error = bad_file(tmp_path, google.external_account_file())
    assert error.code == "no_service_account"
    assert "federation alone gives no ID token" in error.message


@pytest.mark.parametrize("status", [400, 401, 403])
def test_what_the_sts_refuses(google: GoogleStandIn, tmp_path: Path, status: int) -> None:
    source = of_file(tmp_path, federation(google))
    body = f'{{"error": "invalid_grant", "error_description": "{SENTINEL}"}}'
    google.fail(kinds.STS, Fault.error(status, body=body))
    error = refused(source)
    assert (error.code, error.permanent) == ("sts_refused", True)
    assert f"answered {status} invalid_grant" in error.message
    assert "attribute condition" in error.message
    assert "workloadIdentityPools/local/providers/local" in error.message
    assert SENTINEL not in error.message


def test_a_strange_subject_token(google: GoogleStandIn, tmp_path: Path) -> None:
    source = of_file(tmp_path, federation(google))
    google.fail(kinds.SUBJECT_TOKEN, Fault.garbage(SENTINEL))
    error = refused(source)
    assert error.code == "sts_refused"
    assert SENTINEL not in error.message


@pytest.mark.parametrize(
    ("endpoint", "fault", "code", "expected"),
    [
        (kinds.STS, Fault.garbage(SENTINEL), "source_nonsense", "security token service"),
        (kinds.STS, Fault.garbage("{}"), "source_nonsense", "security token service"),
        (kinds.STS, Fault.error(503), "source_refused", "security token service"),
        (kinds.STS, Fault.huge(100_000), "source_nonsense", "more than"),
        (kinds.SUBJECT_TOKEN, Fault.garbage(""), "bad_subject_token", "(url|that)"),
        (kinds.SUBJECT_TOKEN, Fault.garbage(b"\xff\xfe"), "bad_subject_token", "no usable"),
        (kinds.SUBJECT_TOKEN, Fault.error(404, body=SENTINEL), "source_refused", "subject token's"),
        (kinds.SUBJECT_TOKEN, Fault.redirect("http://127.0.0.1:1/"), "source_refused", "302"),
        (kinds.SUBJECT_TOKEN, Fault.reset(), "source_unreachable", "subject token's server"),
    ],
)
def test_other_answers(
    google: GoogleStandIn, tmp_path: Path, endpoint: str, fault: Fault, code: str, expected: str
) -> None:
    source = of_file(tmp_path, federation(google))
    google.fail(endpoint, fault)
    error = refused(source)
    assert error.code == code
    assert any(part in error.message for part in expected.strip("()").split("|"))
    assert SENTINEL not in error.message


@pytest.mark.parametrize("content", [b"", b"  \n", b"\x00\xff" * 99, b"x" * 100_000, None])
def test_subject_token_files_that_hold_none(
    google: GoogleStandIn, tmp_path: Path, content: bytes | None
) -> None:
    subject = tmp_path / "subject"
    if content is None:
        subject.mkdir()
    else:
        subject.write_bytes(content)
    error = refused(of_file(tmp_path, federation(google, {"file": str(subject)})))
    assert error.code == "bad_subject_token"
    assert google.count(kinds.STS) == 0


def test_a_json_subject_token_without_its_field(google: GoogleStandIn, tmp_path: Path) -> None:
    subject = tmp_path / "subject"
    subject.write_text(json.dumps({"other": SENTINEL}))
    file = federation(google, {"file": str(subject), "format": json_format()})
    error = refused(of_file(tmp_path, file))
    assert error.code == "bad_subject_token"
    assert SENTINEL not in error.message


EVIL = "https://evil.example/x"
STS = "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15"
AWS = {"environment_id": "aws1", "regional_cred_verification_url": STS}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token_url": EVIL}, "untrusted_endpoint"),
        ({"token_url": 5}, "bad_federation_file"),
        ({"audience": None}, "bad_federation_file"),
        ({"audience": ["x"]}, "bad_federation_file"),
        ({"subject_token_type": ""}, "bad_federation_file"),
        ({"universe_domain": "evil.example"}, "untrusted_endpoint"),
        ({"service_account_impersonation_url": EVIL}, "bad_federation_file"),
        (
            {
                "service_account_impersonation_url": "https://evil.example/v1/projects/-/"
                f"serviceAccounts/{ROBOT}:generateAccessToken"
            },
            "untrusted_endpoint",
        ),
        ({"credential_source": None}, "bad_federation_file"),
        ({"credential_source": []}, "bad_federation_file"),
        ({"credential_source": {"carrier_pigeon": "x"}}, "bad_federation_file"),
        ({"credential_source": {"file": "x", "url": "y"}}, "bad_federation_file"),
        ({"credential_source": {"file": 5}}, "bad_federation_file"),
        ({"credential_source": {"file": "x", "format": {"type": "xml"}}}, "bad_federation_file"),
        ({"credential_source": {"file": "x", "format": {"type": "json"}}}, "bad_federation_file"),
        ({"credential_source": {"url": EVIL}}, "untrusted_endpoint"),
        ({"credential_source": {"url": "http://169.254.169.254/x"}}, "untrusted_endpoint"),
        ({"credential_source": {"certificate": {}}}, "bad_federation_file"),
        ({"credential_source": {"executable": {}}}, "bad_federation_file"),
        ({"credential_source": {"executable": "rm"}}, "bad_federation_file"),
        ({"credential_source": {"environment_id": "azure1"}}, "bad_federation_file"),
        ({"credential_source": {"environment_id": "aws2"}}, "bad_federation_file"),
        ({"credential_source": {"environment_id": "aws1"}}, "bad_federation_file"),
        ({"credential_source": AWS | {"url": EVIL}}, "untrusted_endpoint"),
        (
            {"credential_source": AWS | {"region_url": "http://169.254.169.254@evil/"}},
            "untrusted_endpoint",
        ),
        ({"credential_source": AWS | {"region_url": 5}}, "untrusted_endpoint"),
        (
            {"credential_source": AWS | {"region_url": "https://169.254.169.254\\\\.evil/"}},
            "untrusted_endpoint",
        ),
        (
            {
                "credential_source": AWS
                | {"regional_cred_verification_url": "https://sts.evilamazonaws.com?x"}
            },
            "bad_federation_file",
        ),
        (
            {"credential_source": AWS | {"regional_cred_verification_url": EVIL}},
            "bad_federation_file",
        ),
        (
            {
                "credential_source": AWS
                | {"regional_cred_verification_url": "https://iam.amazonaws.com?x"}
            },
            "bad_federation_file",
        ),
    ],
)
def test_bad_files(
    google: GoogleStandIn, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    error = bad_file(tmp_path, federation(google) | change)
    assert error.code == code
    assert "evil" not in error.message


def test_awss_own_metadata_server_may_be_named(google: GoogleStandIn, tmp_path: Path) -> None:
    for host in ("169.254.169.254", "[fd00:ec2::254]"):
        source = AWS | {"url": f"http://{host}/latest/meta-data/iam/security-credentials"}
        of_file(tmp_path, federation(google, source))


def test_a_trusted_endpoint_may_be_named(google: GoogleStandIn, tmp_path: Path) -> None:
    file = federation(google) | {"token_url": "https://sts.private.example/v1/token"}
    of_file(tmp_path, file, trusted=("https://sts.private.example",))


def test_another_type_of_file(google: GoogleStandIn) -> None:
    with pytest.raises(SourceError) as caught:
        workload_source(google.authorized_user_file(), "f", EndpointGuard(), email=ROBOT)
    assert "external_account" in caught.value.message
