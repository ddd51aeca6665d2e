"""Redirects to a destination of ours lead back through us, and no others."""

from __future__ import annotations

import pytest

from ext_authz.decisions import Listener
from ext_authz.destination import Destination
from ext_authz.policy import Policy
from ext_authz.redirects import rewritten
from ext_authz.rules import Rule

POLICY = Policy(
    (Rule("*.run.app", "default"), Rule("odd.example.com:8443", "default")),
    upstream=Destination("up.run.app"),
)
APP = "localhost:9090"


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("https://svc.run.app/a?b=https://x#c", "http://svc.run.app/a?b=https://x#c"),
        ("HTTPS://Svc.Run.App.", "http://svc.run.app"),
        ("https://svc.run.app:443/", "http://svc.run.app/"),
        ("https://svc.run.app?q", "http://svc.run.app?q"),
        ("https://odd.example.com:8443/%2F;x", "http://odd.example.com:8443/%2F;x"),
    ],
)
def test_in_forward_mode_a_rules_host_is_called_in_clear_again(url: str, to: str) -> None:
    assert rewritten(Listener.FORWARD, "svc.run.app", url, POLICY) == to


@pytest.mark.parametrize(
    ("url", "to"),
    [
        ("https://up.run.app/a?b", "http://localhost:9090/a?b"),
        ("https://UP.run.app:443", "http://localhost:9090"),
    ],
)
def test_in_reverse_mode_the_upstream_becomes_the_listener(url: str, to: str) -> None:
    assert rewritten(Listener.REVERSE, APP, url, POLICY) == to


@pytest.mark.parametrize("listener", [Listener.FORWARD, Listener.REVERSE])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//svc.run.app/",
        "http://svc.run.app/",
        "https://accounts.google.com/signin",
        "https://user:secret@up.run.app/",
        "https://up.run.app.evil.example/",
        "https://up.run.app:8080/",
        "https://up.run.app\\@evil.example/",
        "https://",
        " https://up.run.app/",
        "https://169.254.169.254/",
        "https://localhost/",
    ],
)
def test_any_other_url_is_left_alone(listener: Listener, url: str) -> None:
    assert rewritten(listener, APP, url, POLICY) is None


def test_in_reverse_mode_another_host_of_ours_is_left_alone() -> None:
    assert rewritten(Listener.REVERSE, APP, "https://svc.run.app/", POLICY) is None


def test_a_client_that_names_no_plain_host_gets_no_rewritten_url() -> None:
    for client in ("", "a b", "evil@localhost", "localhost\r\nx: y"):
        assert rewritten(Listener.REVERSE, client, "https://up.run.app/", POLICY) is None


@pytest.mark.parametrize("listener", [Listener.TUNNEL, Listener.INTERCEPTED, Listener.BARE])
def test_where_the_client_finds_back_by_itself_nothing_is_rewritten(listener: Listener) -> None:
    assert rewritten(listener, "svc.run.app", "https://svc.run.app/", POLICY) is None


def test_a_forbidden_destination_is_not_rewritten_even_with_a_rule() -> None:
    policy = Policy((Rule("localhost", "default"),))
    assert rewritten(Listener.FORWARD, "x.y", "https://localhost/", policy) is None
