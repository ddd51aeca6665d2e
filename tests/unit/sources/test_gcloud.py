"""The gcloud command as a source, with a program that behaves like it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ext_authz.errors import SourceError
from ext_authz.sources import command, gcloud
from ext_authz.sources.gcloud import GcloudSource
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.user import GCLOUD_CLIENT_ID
from ext_authz.standins.google import GoogleStandIn
from tests.unit.fakes import AUDIENCE, SENTINEL
from tests.unit.sources.fake_gcloud import FakeGcloud
from tests.unit.sources.helpers import ROBOT, refused, verified

PERSON = "person@example.com"
PRINT = "auth print-identity-token"


@pytest.fixture
def fake(tmp_path: Path) -> FakeGcloud:
    return FakeGcloud(tmp_path, SENTINEL)


def test_a_person_gets_a_token_for_gclouds_client(google: GoogleStandIn, fake: FakeGcloud) -> None:
    fake.answers(PRINT, google.issuer.mint(GCLOUD_CLIENT_ID, PERSON) + "\n")
    source = GcloudSource(fake.program)
    assert verified(google, source, really=GCLOUD_CLIENT_ID)["email"] == PERSON
    assert fake.asked()[-1] == ["auth", "print-identity-token"]
    assert GCLOUD_CLIENT_ID in source.note
    assert source.found == str(fake.program)


@pytest.mark.parametrize("impersonates", [None, ROBOT])
def test_a_service_account_gets_the_audience_of_the_rule(
    google: GoogleStandIn, fake: FakeGcloud, impersonates: str | None
) -> None:
    fake.logged_in(PERSON if impersonates else ROBOT, impersonates)
    fake.answers(f"{PRINT} --audiences={AUDIENCE}", google.issuer.mint(AUDIENCE, ROBOT))
    assert verified(google, GcloudSource(fake.program))["email"] == ROBOT


def test_its_access_token_can_impersonate(google: GoogleStandIn, fake: FakeGcloud) -> None:
    google.directory.grant_token_creator(ROBOT, PERSON)
    fake.answers("auth print-access-token", google.directory.new_access_token(PERSON, ()) + "\n")
    source = ImpersonationSource(GcloudSource(fake.program), Target(ROBOT), google.public_url)
    assert verified(google, source)["email"] == ROBOT


def test_without_gcloud() -> None:
    with pytest.raises(SourceError) as caught:
        GcloudSource(None)
    assert (caught.value.code, caught.value.permanent) == ("gcloud_missing", True)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    assert refused(GcloudSource(tmp_path / "absent")).code == "command_missing"
    (tmp_path / "text").write_text("no program")
    assert refused(GcloudSource(tmp_path / "text")).code == "command_missing"


def test_nobody_is_logged_in(fake: FakeGcloud) -> None:
    fake.logged_in(None)
    error = refused(GcloudSource(fake.program))
    assert (error.code, error.permanent) == ("gcloud_not_logged_in", True)
    assert "gcloud auth login" in error.message


@pytest.mark.parametrize(("says", "status"), [("", 1), (SENTINEL, 1), ("", 0), (" \n", 0)])
def test_a_login_that_has_expired(fake: FakeGcloud, says: str, status: int) -> None:
    fake.answers(PRINT, says, status=status)
    error = refused(GcloudSource(fake.program))
    assert (error.code, error.permanent) == ("gcloud_failed", True)
    assert f"active account {PERSON}" in error.message
    assert "gcloud auth login" in error.message
    assert SENTINEL not in error.message


@pytest.mark.parametrize(
    ("start", "says", "code"),
    [
        (PRINT, SENTINEL, "token_rejected"),
        (PRINT, f"{SENTINEL}\n{SENTINEL}", "token_rejected"),
        (PRINT, "é" * 9, "token_rejected"),
        (PRINT, "x" * 70_000, "source_nonsense"),
        ("config list", SENTINEL, "source_nonsense"),
        ("config list", "[]", "source_nonsense"),
        ("config list", '{"core": []}', "gcloud_not_logged_in"),
        ("config list", '{"core": {"account": 5}}', "gcloud_not_logged_in"),
    ],
)
def test_garbage(fake: FakeGcloud, start: str, says: str, code: str) -> None:
    full = "config list --format=json" if start == "config list" else start
    fake.answers(full, says)
    error = refused(GcloudSource(fake.program))
    assert error.code == code
    assert SENTINEL not in error.message


def test_a_hanging_program_is_ended_with_its_children(
    fake: FakeGcloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcloud is a shell script that starts a Python: the pipe is held by the grandchild."""
    script = tmp_path / "hanging"
    script.write_text("#!/bin/sh\nsleep 30\n")
    script.chmod(0o755)
    monkeypatch.setattr(gcloud, "COMMAND_SECONDS", 0.2)
    began = time.monotonic()
    error = refused(GcloudSource(script))
    assert error.code == "source_slow"
    assert time.monotonic() - began < 2


def test_it_has_no_stdin_and_its_complaints_are_not_read(tmp_path: Path) -> None:
    script = tmp_path / "reader"
    script.write_text("#!/bin/sh\necho complaint >&2\ncat\necho end\n")
    script.chmod(0o755)
    assert command.output_of(script, ["x"], 5) == b"end\n"
