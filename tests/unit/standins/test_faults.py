"""Every fault can be switched on for one endpoint, counted down, and switched off."""

from __future__ import annotations

import http.client
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor

import pytest

from ext_authz.standins import google as kinds
from ext_authz.standins import rs256
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.verifier import TokenRejectedError, TokenVerifier
from tests.unit.standins.conftest import AUDIENCE, Answer, fetch

FLAVOR = {"Metadata-Flavor": "Google"}


def ask(google: GoogleStandIn, timeout: float = 5) -> Answer:
    """Ask for an ID token."""
    path = "/computeMetadata/v1/instance/service-accounts/default/identity"
    return fetch(f"{google.url}{path}?audience={AUDIENCE}", headers=FLAVOR, timeout=timeout)


def test_a_status_with_retry_after_for_a_number_of_times(google: GoogleStandIn) -> None:
    """Two 429, then all is well; other endpoints never notice."""
    google.fail(kinds.IDENTITY, Fault.error(429, retry_after=7, body="slow down"), times=2)
    first = ask(google)
    assert (first.status, first.headers["Retry-After"], first.text) == (429, "7", "slow down")
    assert fetch(google.jwks_url).status == 200
    assert [ask(google).status for _ in range(2)] == [429, 200]
    assert google.count(kinds.IDENTITY) == 3


def test_garbage_huge_and_redirect(google: GoogleStandIn) -> None:
    """Bodies that are no token, too large, or elsewhere."""
    google.fail(kinds.IDENTITY, Fault.garbage("<html>"))
    assert (ask(google).status, ask(google).text) == (200, "<html>")
    google.fail(kinds.IDENTITY, Fault.huge(200_000))
    assert len(ask(google).body) == 200_000
    google.fail(kinds.IDENTITY, Fault.redirect("http://127.0.0.1:9/"))
    assert ask(google).headers["Location"] == "http://127.0.0.1:9/"
    google.heal(kinds.IDENTITY)
    assert ask(google).status == 200


def test_reset_and_close(google: GoogleStandIn) -> None:
    """The connection ends without an answer, hard or soft."""
    google.fail(kinds.IDENTITY, Fault.reset())
    with pytest.raises(OSError, match="reset") as caught:
        ask(google)
    assert not isinstance(caught.value, http.client.RemoteDisconnected)
    google.fail(kinds.IDENTITY, Fault.close())
    with pytest.raises(http.client.RemoteDisconnected):
        ask(google)
    google.heal()
    assert ask(google).status == 200


def test_a_stall_outlasts_the_client_and_ends_with_the_server(google: GoogleStandIn) -> None:
    """A client's time limit passes; stopping does not wait for the stall."""
    google.fail(kinds.IDENTITY, Fault.stall(30))
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        ask(google, timeout=0.05)
    started = time.monotonic()
    google.stop()
    assert time.monotonic() - started < 2


def test_a_trickle_gives_the_whole_answer_slowly(google: GoogleStandIn) -> None:
    """Byte by byte, but right."""
    google.fail(kinds.CERTS, Fault.trickle(0.0))
    google.fail(kinds.METADATA, Fault.trickle(0.002))
    started = time.monotonic()
    answer = fetch(f"{google.url}/computeMetadata/v1/project/project-id", headers=FLAVOR)
    assert answer.text == "local-project"
    assert time.monotonic() - started >= 0.02


def test_claims_that_a_sidecar_must_not_keep(google: GoogleStandIn) -> None:
    """Signed rightly, wrong in what they say; and never cached by the server."""
    verifier = TokenVerifier(google.issuer)
    for fault, reason in (
        (Fault.wrong_audience(), "wrong_audience"),
        (Fault.expired(), "expired"),
        (Fault.without_expiry(), "malformed"),
        (Fault.expiry_as_text(), "malformed"),
        (Fault.claims(lambda claims: claims | {"iss": "https://evil.example"}), "wrong_issuer"),
    ):
        google.fail(kinds.IDENTITY, fault)
        token = ask(google).text
        assert rs256.decode(token).claims
        with pytest.raises(TokenRejectedError) as caught:
            verifier.verify(token, {AUDIENCE})
        assert caught.value.reason == reason
    google.heal()
    verifier.verify(ask(google).text, {AUDIENCE})


def ask_again(connection: http.client.HTTPConnection) -> None:
    """Use a connection once more."""
    connection.request("GET", "/oauth2/v3/certs")
    connection.getresponse()


def test_down_cuts_connections_that_are_kept_alive(google: GoogleStandIn) -> None:
    """An outage does not leave old connections served."""
    connection = http.client.HTTPConnection("127.0.0.1", google.port, timeout=5)
    connection.request("GET", "/oauth2/v3/certs")
    connection.getresponse().read()
    google.down()
    connection.auto_open = 0  # no second connection behind our back
    with pytest.raises((http.client.HTTPException, OSError)):
        ask_again(connection)
    connection.close()
    google.up()
    assert ask(google).status == 200


def test_fifty_at_once_are_all_answered(google: GoogleStandIn) -> None:
    """A cold flood is not lost, and every request is counted."""
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(google), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert google.count(kinds.IDENTITY) == 50
