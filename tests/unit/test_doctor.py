"""The doctor's verdicts: what each answer of a destination means, and what to do about it."""

from __future__ import annotations

import pytest

from ext_authz import probe
from ext_authz.errors import SourceError
from ext_authz.probe import Answer
from ext_authz.tokens import Fetched
from tests.unit.doctor_stage import HOST, ROBOT, TOKEN_HEADERS, FakeSource, Place, examine
from tests.unit.fakes import START, FakeClock, token_text


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place()
    for name in ("resolve", "ask", "ask_through"):
        monkeypatch.setattr(probe, name, getattr(found, name))
    return found


@pytest.mark.parametrize(
    ("without", "with_token", "verdict", "advice"),
    [
        (403, 200, "reachable", "200 with the token"),
        (403, 404, "reachable", "404 with the token"),
        (401, 500, "reachable", "500 with the token"),
        (200, 200, "public", "without a token"),
        (302, 302, "public", "without a token"),
        (403, 401, "token_refused", f"audience sent is https://{HOST}"),
        (401, 401, "token_refused", "its audience is not accepted"),
        (403, 403, "permission_missing", f"{ROBOT} lacks run.invoker on {HOST}"),
        (403, 0, "unreachable", ""),
    ],
)
def test_the_verdict_follows_from_the_answers_without_and_with_the_token(
    place: Place, without: int, with_token: int, verdict: str, advice: str
) -> None:
    place.without, place.with_token = Answer(without), Answer(with_token, "no answer")
    finding = examine()
    assert finding.verdict == verdict
    assert advice in finding.advice
    assert (finding.status_without_token, finding.status_with_token) == (without, with_token)
    assert finding.is_good == (verdict in ("reachable", "public"))


def test_a_finding_holds_credential_claims_and_addresses(place: Place) -> None:
    place.without = Answer(403, date=START - 3)
    finding = examine()
    assert finding.credential == "default"
    assert finding.credential_found == "metadata: the metadata server at m"
    assert finding.identity == ROBOT
    assert finding.audience == f"https://{HOST}"
    assert finding.expires_in_seconds == 3000
    assert finding.addresses == ["192.0.2.1"]
    assert finding.clock_skew_seconds == 3


@pytest.mark.parametrize(
    ("host", "member", "command"),
    [
        (HOST, ROBOT, "svc --region=europe-west1 --member=serviceAccount:"),
        (f"tag---a-{HOST}", ROBOT, "a-svc --region=europe-west1 --member=serviceAccount:"),
        ("svc-hash-ew.a.run.app", ROBOT, "SERVICE --region=REGION --member=serviceAccount:"),
        (HOST, "person@example.com", "svc --region=europe-west1 --member=user:"),
    ],
)
def test_a_missing_permission_is_told_with_the_command_that_grants_it(
    place: Place, host: str, member: str, command: str
) -> None:
    place.with_token = Answer(403)
    finding = examine(host, source=FakeSource(email=member))
    words = f"gcloud run services add-iam-policy-binding {command}{member} --role=roles/run.invoker"
    assert words in finding.advice


@pytest.mark.parametrize("skew", [3600, -3600, 31])
def test_a_refused_token_is_blamed_on_a_clock_that_is_off(place: Place, skew: int) -> None:
    place.without, place.with_token = Answer(403, date=START - skew), Answer(401)
    finding = examine()
    assert (finding.verdict, finding.clock_skew_seconds) == ("token_refused", skew)
    assert f"clock is off by {skew} s" in finding.advice


def test_a_clock_that_is_a_little_off_is_not_blamed(place: Place) -> None:
    place.without, place.with_token = Answer(403, date=START - 29), Answer(401)
    assert "audience is not accepted" in examine().advice


def test_a_name_that_does_not_resolve_is_asked_nothing(place: Place) -> None:
    place.wrong = "svc does not resolve from here"
    finding = examine()
    assert finding.verdict == "unresolvable"
    assert "check the name and the DNS" in finding.advice
    assert place.asked == []


def test_a_certificate_that_is_not_trusted_is_named(place: Place) -> None:
    place.without = Answer(0, "its certificate is not trusted here: self-signed certificate")
    finding = examine()
    assert finding.verdict == "unreachable"
    assert "self-signed certificate" in finding.advice
    assert "ca_file" in finding.advice
    assert len(place.asked) == 1  # and the token was not sent there


def test_the_credential_is_examined_also_where_nothing_answers(place: Place) -> None:
    place.wrong = "svc does not resolve from here"
    finding = examine()
    assert (finding.identity, finding.audience) == (ROBOT, f"https://{HOST}")


def test_a_token_that_cannot_be_had_says_why(place: Place) -> None:
    source = FakeSource(SourceError("the metadata server is not there", code="x"))
    finding = examine(source=source)
    assert (finding.verdict, finding.advice) == ("no_token", "the metadata server is not there")
    assert finding.credential_found
    assert not any(TOKEN_HEADERS & set(headers) for _, _, headers in place.asked)


def test_a_missing_token_and_a_wrong_clock_are_both_told(place: Place) -> None:
    place.without = Answer(403, date=START - 7200)
    finding = examine(source=FakeSource(SourceError("no", code="x")))
    assert (finding.verdict, finding.clock_skew_seconds) == ("no_token", 7200)


def test_a_token_for_another_audience_is_not_sent(place: Place) -> None:
    source = FakeSource()
    source.fetch = lambda audience: Fetched(token_text(FakeClock(), 3000, "other"))  # type: ignore[method-assign]
    finding = examine(source=source)
    assert finding.verdict == "no_token"
    assert "expected a token for audience" in finding.advice


def test_the_token_goes_where_the_rule_says(place: Place) -> None:
    source = FakeSource()
    examine("api.example.com:8443", source=source)
    destination, address, headers = place.asked[-1]
    assert (destination.authority(), address) == ("api.example.com:8443", "192.0.2.1")
    assert set(headers) == {"proxy-authorization"}
    assert source.asked == ["custom"]


def test_a_static_token_has_neither_audience_nor_claims(place: Place) -> None:
    finding = examine("static.example.com")
    assert finding.verdict == "reachable"
    assert (finding.audience, finding.expires_in_seconds, finding.identity) == ("", None, "")


def test_a_function_is_examined_by_its_own_path(place: Place) -> None:
    source = FakeSource()
    finding = examine("https://f.cloudfunctions.net/hello?x", source=source)
    assert source.asked == ["https://f.cloudfunctions.net/hello"]
    assert finding.verdict == "reachable"
    finding = examine("f.cloudfunctions.net")
    assert not finding.is_good
    assert "/NAME" in finding.advice
