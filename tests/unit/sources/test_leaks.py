"""No source shows a secret: not in its repr, its attributes for people, a log line or an error."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext_authz import log
from ext_authz.errors import SourceError
from ext_authz.settings import EnvSecret
from ext_authz.sources import Source
from ext_authz.sources.gcloud import GcloudSource
from ext_authz.sources.iam import Target
from ext_authz.sources.impersonation import ImpersonationSource
from ext_authz.sources.metadata import MetadataSource
from ext_authz.sources.static_token import StaticSource
from ext_authz.standins import google as kinds
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import SigningKey
from tests.unit.fakes import AUDIENCE, SENTINEL
from tests.unit.sources.conftest import EMAIL
from tests.unit.sources.fake_gcloud import FakeGcloud
from tests.unit.sources.helpers import ROBOT, of_file

ENDPOINTS = (
    kinds.IDENTITY,
    kinds.METADATA_TOKEN,
    kinds.TOKEN,
    kinds.STS,
    kinds.GENERATE_ID_TOKEN,
    kinds.SUBJECT_TOKEN,
)
Make = Callable[[], tuple[Source, list[str]]]


@pytest.fixture
def makers(google: GoogleStandIn, tmp_path: Path, key: SigningKey) -> dict[str, Make]:
    """Return, by name, how to make a source, with the secrets that are its own."""
    google.directory.grant_token_creator(ROBOT, EMAIL)
    user = google.authorized_user_file()
    key_file = google.service_account_key("ci@p.iam.gserviceaccount.com", key)
    federation = google.external_account_file(impersonate=ROBOT) | {
        "client_id": "id",
        "client_secret": SENTINEL,
    }
    fake = FakeGcloud(tmp_path, SENTINEL)
    fake.answers("auth print-identity-token", SENTINEL)
    metadata = MetadataSource(google.metadata_host)
    pem = key_file["private_key"].splitlines()[3]
    return {
        "metadata": lambda: (metadata, []),
        "key": lambda: (of_file(tmp_path, key_file), [pem]),
        "user": lambda: (of_file(tmp_path, user), [user["client_secret"], user["refresh_token"]]),
        "federation": lambda: (of_file(tmp_path, federation), [google.subject_token, SENTINEL]),
        "impersonation": lambda: (ImpersonationSource(metadata, Target(ROBOT), google.url), []),
        "gcloud": lambda: (GcloudSource(fake.program), []),
        "static": lambda: (StaticSource(EnvSecret("T", SENTINEL)), [SENTINEL]),
    }


NAMES = ("metadata", "key", "user", "federation", "impersonation", "gcloud", "static")
BODIES = (
    Fault.error(403, body=f'{{"error": {{"status": "X", "message": "{SENTINEL}"}}}}'),
    Fault.error(400, body=json.dumps({"error": "x", "error_description": SENTINEL})),
    Fault.error(500, body=SENTINEL),
    Fault.garbage(SENTINEL),
    Fault.garbage(json.dumps({"access_token": SENTINEL, "id_token": SENTINEL})),
)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Let every library log everything through our own set-up."""
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in (None, "ext_authz", "google", "urllib3")]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    log.set_up("debug", stream)
    for one in loggers[2:]:
        one.setLevel(logging.DEBUG)
    yield stream
    for one, handlers, level, propagate in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_works_shows_nothing(
    makers: dict[str, Make], name: str, lines: io.StringIO
) -> None:
    source, secrets = makers[name]()
    text = source.fetch(AUDIENCE).text
    shown = f"{source!r} {source} {source.kind} {source.found} {source.note} {lines.getvalue()}"
    for secret in (*secrets, text, "ya29."):
        assert secret not in shown


@pytest.mark.parametrize("fault", BODIES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("gcloud", "static")])
def test_a_failure_shows_nothing_of_an_answer(
    makers: dict[str, Make], google: GoogleStandIn, name: str, fault: Fault, lines: io.StringIO
) -> None:
    source, secrets = makers[name]()
    for endpoint in ENDPOINTS:
        google.fail(endpoint, fault)
    try:
        fetched = source.fetch(AUDIENCE)
    except SourceError as error:
        shown = f"{error!r} {error} {''.join(traceback.format_exception(error))}"
    else:
        shown = repr(fetched)  # the cache refuses it: no JWT
    for secret in (*secrets, SENTINEL, "ya29."):
        assert secret not in shown + lines.getvalue()
