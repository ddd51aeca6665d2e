"""The metadata source against the stand-in, with real signatures and every kind of nonsense."""

from __future__ import annotations

import pytest
from google.auth import jwt as google_jwt

from ext_authz.clock import system_clock
from ext_authz.errors import SourceError
from ext_authz.sources.metadata import MetadataSource
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from ext_authz.tokens import accept
from tests.unit.fakes import AUDIENCE, SENTINEL
from tests.unit.sources.conftest import EMAIL


def says(body: bytes | str) -> Fault:
    """Answer 200 with this body, as a metadata server that has lost its mind."""
    data = body.encode() if isinstance(body, str) else body
    return Fault(status=200, body=data, headers=(("Metadata-Flavor", "Google"),))


def refused(google: GoogleStandIn, hint: str = "") -> SourceError:
    with pytest.raises(SourceError) as caught:
        MetadataSource(google.metadata_host, hint=hint).fetch(AUDIENCE)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def test_it_hands_over_a_token_that_google_signed_for_the_audience(google: GoogleStandIn) -> None:
    source = MetadataSource(google.metadata_host)
    fetched = source.fetch(AUDIENCE)
    certificates = google.issuer.certificates()
    claims = google_jwt.decode(fetched.text, certs=certificates, audience=AUDIENCE)
    assert (claims["aud"], claims["email"]) == (AUDIENCE, EMAIL)
    assert not fetched.mints_anew
    assert accept(fetched, AUDIENCE, system_clock(), 0.5).text == fetched.text
    assert (source.kind, source.found) == ("metadata server", google.metadata_host)


def test_one_fetch_is_one_call_in_the_full_format(google: GoogleStandIn) -> None:
    MetadataSource(google.metadata_host).fetch(AUDIENCE)
    [request] = google.requests
    assert request.kind == "identity"
    assert request.query == {"audience": AUDIENCE, "format": "full"}
    assert request.header("Metadata-Flavor") == "Google"


@pytest.mark.parametrize("times", [2])
def test_it_may_hand_back_the_token_that_it_handed_over_before(
    google: GoogleStandIn, times: int
) -> None:
    source = MetadataSource(google.metadata_host)
    assert len({source.fetch(AUDIENCE).text for _ in range(times)}) == 1


@pytest.mark.parametrize("audience", ["https://a.run.app", "api://é ü&x=y#z?", "32555940559.apps"])
def test_any_audience_arrives_as_it_is(google: GoogleStandIn, audience: str) -> None:
    fetched = MetadataSource(google.metadata_host).fetch(audience)
    assert accept(fetched, audience, system_clock(), 0.5)


@pytest.mark.parametrize(
    ("fault", "code", "permanent"),
    [
        (Fault.error(403), "source_refused", True),
        (Fault.error(404, body=SENTINEL), "source_refused", True),
        (Fault.error(500, body=SENTINEL), "source_refused", False),
        (Fault.error(429, retry_after=7), "source_refused", False),
        (Fault.redirect("http://127.0.0.1:1/"), "source_refused", False),
        (says(SENTINEL), "source_nonsense", False),
        (says(b""), "source_nonsense", False),
        (says(b"\xff" * 100), "source_nonsense", False),
        (says("a.b.c"), "source_nonsense", False),
        (Fault.without_expiry(), "source_nonsense", False),
        (says(b"A" * 200_000), "source_nonsense", False),
        (Fault.garbage("no flavor"), "source_nonsense", False),
        (Fault.reset(), "source_unreachable", False),
        (Fault.close(), "source_unreachable", False),
    ],
)
def test_every_failure_is_a_source_error_that_shows_nothing_of_the_body(
    google: GoogleStandIn, fault: Fault, code: str, permanent: bool
) -> None:
    google.fail("identity", fault)
    error = refused(google)
    assert (error.code, error.permanent) == (code, permanent)
    assert "metadata server" in error.message
    assert SENTINEL not in error.message
    assert google.count("identity") == 1


def test_retry_after_is_handed_on(google: GoogleStandIn) -> None:
    google.fail("identity", Fault.error(503, retry_after=9))
    assert refused(google).retry_after_seconds == 9


@pytest.mark.parametrize("fault", [Fault.wrong_audience(), Fault.expired(), Fault.expiry_as_text()])
def test_a_token_that_is_not_ours_is_never_accepted(google: GoogleStandIn, fault: Fault) -> None:
    google.fail("identity", fault)
    with pytest.raises(SourceError):
        accept(MetadataSource(google.metadata_host).fetch(AUDIENCE), AUDIENCE, system_clock(), 0.5)


def test_a_server_that_is_down_is_an_error_with_a_hint_and_it_recovers(
    google: GoogleStandIn,
) -> None:
    google.down()
    error = refused(google, hint="set GOOGLE_APPLICATION_CREDENTIALS")
    assert error.code == "source_unreachable"
    assert google.metadata_host in error.message
    assert error.message.endswith("; set GOOGLE_APPLICATION_CREDENTIALS")
    google.up()
    assert MetadataSource(google.metadata_host).fetch(AUDIENCE).text


def test_an_instance_without_an_account_is_told_so_and_not_asked_again_soon(
    google: GoogleStandIn,
) -> None:
    email, google.metadata.email = google.metadata.email, None
    try:
        error = refused(google, hint="no hint for this")
    finally:
        google.metadata.email = email
    assert error.permanent
    assert "404" in error.message
    assert "no hint" not in error.message


def test_the_apps_proxy_is_not_used(google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert MetadataSource(google.metadata_host).fetch(AUDIENCE).text
