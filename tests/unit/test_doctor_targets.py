"""What the doctor examines, also through a running sidecar, and how it says what it found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ext_authz import probe
from ext_authz.clock import Now
from ext_authz.destination import Destination
from ext_authz.doctor import Doctor, as_json, as_text
from ext_authz.probe import Answer
from ext_authz.short_names import Project
from tests.unit.doctor_stage import HOST, SETTINGS, FakeSource, Place, examine
from tests.unit.fakes import START


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place()
    for name in ("resolve", "ask", "ask_through"):
        monkeypatch.setattr(probe, name, getattr(found, name))
    return found


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("*.run.app", "wildcard"),
        ("example.com", "no_rule"),
        ("169.254.169.254", "destination_forbidden"),
        ("a..b", "bad_destination"),
        ("web", "short_name"),
    ],
)
def test_what_cannot_be_examined_says_why_and_asks_nobody(
    place: Place, target: str, verdict: str
) -> None:
    finding = examine(target)
    assert finding.verdict == verdict
    assert finding.advice
    assert place.asked == []


def test_a_short_name_of_a_known_project_is_examined(place: Place) -> None:
    settings = replace(SETTINGS, project=Project("123456", "europe-west1"))
    finding = examine("http://svc/", settings=settings)
    assert (finding.verdict, finding.audience) == ("reachable", f"https://{HOST}")


def refusal(word: str) -> str:
    return json.dumps({"error": word, "message": "what to do", "destination": HOST})


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), "reachable"),
        (Answer(404, '{"error": "the app says so"}'), "reachable"),
        (Answer(401), "token_refused"),
        (Answer(403), "permission_missing"),
        (Answer(503, refusal("token_unavailable")), "token_unavailable"),
        (Answer(503, refusal("destination_unresolvable")), "destination_unresolvable"),
        (Answer(403, refusal("destination_denied")), "destination_denied"),
        (Answer(0, "no answer: ConnectionRefusedError"), "no_sidecar"),
    ],
)
def test_through_a_running_sidecar_its_own_errors_are_told_apart(
    place: Place, answer: Answer, verdict: str
) -> None:
    place.through = answer
    source = FakeSource()
    finding = examine(source=source, sidecar="127.0.0.1:8000")
    assert finding.verdict == verdict
    assert finding.advice
    assert source.asked == []  # the sidecar's own credential counts
    assert [address for _, address, _ in place.asked] == ["127.0.0.1:8000"]


def test_without_urls_every_rule_is_a_target() -> None:
    doctor = Doctor(SETTINGS, {}, Now(START, 0.0))
    assert list(doctor.targets([])) == [rule.match for rule in SETTINGS.rules]
    assert len(doctor.targets(["http://a.b/c", "d.e"])) == 2


def test_findings_are_json_and_text_without_the_token(place: Place) -> None:
    finding = examine()
    [found] = json.loads(as_json([finding]))
    assert found["verdict"] == "reachable"
    assert found["status_without_token"] == 403
    text = as_text(finding)
    assert text.startswith(f"{HOST}: reachable\n")
    assert "    status without token: 403" in text
    for shown in (as_json([finding]), text, repr(finding)):
        assert "eyJ" not in shown
        assert "None" not in text


@pytest.mark.parametrize(
    ("host", "addresses", "allow_loopback", "wrong"),
    [
        ("svc.run.app", ["192.0.2.1", "2001:db8::1", "192.0.2.1"], False, ""),
        ("svc.run.app", ["127.0.0.1"], False, "leads to 127.0.0.1"),
        ("svc.run.app", ["127.0.0.1"], True, ""),
        ("svc.run.app", ["192.0.2.1", "169.254.169.254"], True, "leads to 169.254.169.254"),
        ("svc.run.app", ["fe80::1"], True, "leads to fe80::1"),
        ("svc.run.app", [], False, "svc.run.app does not resolve from here"),
        ("a.localhost", ["127.0.0.1"], True, ""),
    ],
)
def test_a_name_is_judged_by_every_address_that_it_leads_to(
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    addresses: list[str],
    allow_loopback: bool,
    wrong: str,
) -> None:
    asked: list[str] = []

    def look_up(name: str, port: int, type: int) -> list[tuple[object, ...]]:  # noqa: A002
        asked.append(name)
        if not addresses:
            raise OSError("no such name")
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(probe.socket, "getaddrinfo", look_up)
    found, reason = probe.resolve(Destination(host), allow_loopback=allow_loopback)
    assert wrong in reason if wrong else reason == ""
    assert set(found) == set(addresses)
    assert asked == ["localhost" if host.endswith(".localhost") else host]
