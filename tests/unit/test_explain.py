"""`explain` says what would happen, as facts and as text; nothing is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ext_authz.errors import UsageError
from ext_authz.explain import as_text, audience_and_credential, authority_of, explain
from ext_authz.rules import Header, Rule
from ext_authz.settings import MetadataCredential, NamedCredential, Settings
from ext_authz.sources import Source
from ext_authz.tokens import Fetched

SETTINGS = Settings(
    credentials={
        name: NamedCredential(name, MetadataCredential()) for name in ("default", "robot", "athens")
    },
    rules=(
        Rule("*.run.app", "default"),
        Rule("*.a.run.app", "robot"),
        Rule("athens.example.com:8443", "athens", audience=None, header=Header.AUTHORIZATION),
    ),
)


class Canned:
    """A source that must not be asked."""

    found = "somewhere"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.note = ""

    def fetch(self, audience: str) -> Fetched:
        raise AssertionError("explain asks nobody")


SOURCES: dict[str, Source] = {name: Canned(f"kind of {name}") for name in SETTINGS.credentials}


def explained(url: str, **changes: Any) -> dict[str, Any]:
    from dataclasses import replace

    return explain(url, replace(SETTINGS, **changes), SOURCES)


def test_a_token_is_explained_with_rule_audience_credential_header_and_upstream() -> None:
    found = explained("http://Svc.a.run.app/path?q#f")
    expected = {
        "url": "http://Svc.a.run.app/path?q#f",
        "decision": "inject",
        "rule": "*.a.run.app",
        "audience": "https://svc.a.run.app",
        "credential": "robot",
        "credential_kind": "kind of robot",
        "credential_found": "somewhere",
        "header": "authorization",
        "header_if_app_sends_authorization": "x-serverless-authorization",
        "upstream": "https://svc.a.run.app",
    }
    assert {name: found[name] for name in expected} == expected
    assert "*.run.app" in str(found["also_matching"])


def test_a_static_token_has_no_audience() -> None:
    found = explained("http://athens.example.com:8443/")
    assert found["audience"] is None
    assert found["header_if_app_sends_authorization"] == "authorization"
    assert found["upstream"] == "https://athens.example.com:8443"


def test_a_pass_and_each_refusal_are_explained() -> None:
    assert explained("http://example.com")["decision"] == "pass"
    denied = explained("http://example.com", pass_others=False)
    assert (denied["decision"], denied["status"], denied["error"]) == (
        "deny",
        403,
        "destination_denied",
    )
    assert explained("http://169.254.169.254/")["error"] == "destination_forbidden"
    assert explained("http://a..b/")["error"] == "bad_destination"


@pytest.mark.parametrize(
    "url", ["http://svc.run.app", "http://athens.example.com:8443", "http://x.y", "http://a..b"]
)
def test_every_explanation_is_json_and_text(url: str) -> None:
    found = explained(url)
    assert json.loads(json.dumps(found)) == found
    text = as_text(found)
    assert len(text.splitlines()) == len(found)
    assert found["decision"] in text
    assert "[]" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://a.b/c", "a.b"),
        ("https://a.b:1/c?d", "a.b:1"),
        ("a.b", "a.b"),
        ("a.b:8443/c", "a.b:8443"),
        ("HTTP://A.b", "A.b"),
    ],
)
def test_a_url_or_a_bare_authority_is_read(url: str, authority: str) -> None:
    assert authority_of(url) == authority


@pytest.mark.parametrize("url", ["", "ftp://a.b", "http://", "/path", "http://[", "http:///x"])
def test_anything_else_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError):
        explained(url)


@pytest.mark.parametrize(
    ("text", "credential", "audience"),
    [
        ("https://svc.a.run.app/path", "robot", "https://svc.a.run.app"),
        ("http://tag---svc.run.app", "default", "https://svc.run.app"),
        ("https://example.com/x", "default", "https://example.com/x"),
        ("my-audience", "default", "my-audience"),
        ("https://a..b/", "default", "https://a..b/"),
    ],
)
def test_a_token_is_asked_for_by_url_or_by_audience(
    text: str, credential: str, audience: str
) -> None:
    assert audience_and_credential(text, SETTINGS) == (credential, audience)


@pytest.mark.parametrize("text", ["", "  "])
def test_a_token_for_nothing_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        audience_and_credential(text, SETTINGS)
