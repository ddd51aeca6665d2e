"""Trusted callers: context_extensions of an Envoy's route win over the host; headers never do."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.destination import Destination
from ext_authz.policy import Policy
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rules import Rule
from ext_authz.tokens import TokenKey
from tests.unit.stage import Stage, answer, error_of, headers_of, request

RULES = (
    Rule("*.run.app", "default"),
    Rule("athens.example.com", "athens", audience=None),
)
POLICY = Policy(
    RULES,
    credentials=frozenset({"default", "robot", "athens"}),
    static_credentials=frozenset({"athens"}),
)


async def asked(host: str, **extensions: str) -> tuple[TokenKey | None, pb.CheckResponse]:
    """Return what the source was asked for, and the answer to a foreign Envoy."""
    stage = Stage(POLICY)
    answer = await stage.check(host, listener=None, extensions=extensions)
    return next(iter(stage.world.fetch.asked), None), answer


@pytest.mark.parametrize(
    ("host", "extensions", "key"),
    [
        ("svc.run.app", {"audience": "custom"}, TokenKey("default", "custom")),
        ("svc.run.app", {"credential": "robot"}, TokenKey("robot", "https://svc.run.app")),
        ("svc.run.app", {"audience": "x", "credential": "robot"}, TokenKey("robot", "x")),
        ("in.cluster", {"audience": "x"}, TokenKey("default", "x")),
        ("in.cluster", {"credential": "robot"}, TokenKey("robot", "https://in.cluster")),
        (
            "in.cluster",
            {"audience": "https://{host}/x"},
            TokenKey("default", "https://in.cluster/x"),
        ),
        ("in.cluster", {"destination": "svc.run.app"}, TokenKey("default", "https://svc.run.app")),
        ("", {"destination": "svc.run.app:443"}, TokenKey("default", "https://svc.run.app")),
        ("bad..host", {"destination": "athens.example.com"}, TokenKey("athens", "")),
        ("athens.example.com", {"credential": "athens"}, TokenKey("athens", "")),
        (
            "athens.example.com",
            {"credential": "robot"},
            TokenKey("robot", "https://athens.example.com"),
        ),
    ],
)
async def test_the_routes_word_wins_over_the_host(
    host: str, extensions: dict[str, str], key: TokenKey
) -> None:
    found, answer = await asked(host, **extensions)
    assert found == key
    assert answer.status.code == 0
    headers = headers_of(answer)
    assert headers["authorization"].startswith("Bearer ")
    assert ":authority" not in headers  # the other Envoy sends it where its own route says


@pytest.mark.parametrize(
    ("host", "extensions", "part"),
    [
        ("svc.run.app", {"credential": "nobody"}, "expected one of athens, default, robot"),
        ("svc.run.app", {"credential": "athens"}, "add a rule"),
        ("other.example", {"credential": "athens"}, "add a rule"),
        ("athens.example.com", {"audience": "x"}, "drop it"),
        ("athens.example.com", {"audience": "x", "credential": "athens"}, "drop it"),
    ],
)
async def test_an_override_that_cannot_be_right_sends_nothing(
    host: str, extensions: dict[str, str], part: str
) -> None:
    found, answer = await asked(host, **extensions)
    assert found is None
    assert error_of(answer) == "bad_override"
    assert answer.denied_response.status.code == 500
    assert part in answer.denied_response.body


@pytest.mark.parametrize(
    ("destination", "word"),
    [
        ("169.254.169.254", "destination_forbidden"),
        ("metadata.google.internal:80", "destination_forbidden"),
        ("localhost", "destination_forbidden"),
        ("a b", "bad_destination"),
    ],
)
async def test_an_override_opens_no_forbidden_destination(destination: str, word: str) -> None:
    found, answer = await asked("svc.run.app", destination=destination)
    assert (found, error_of(answer)) == (None, word)


@pytest.mark.parametrize("prefix", ["", "x-", "x-envoy-", "x-ext-authz-", "context-extensions-"])
async def test_request_headers_never_do_what_the_route_does(prefix: str) -> None:
    stage = Stage(POLICY)
    words = {"audience": "evil", "credential": "athens", "destination": "athens.example.com"}
    headers = {prefix + name: value for name, value in (words | {"listener": "reverse"}).items()}
    answer = await stage.check("svc.run.app", listener=None, headers=headers)
    assert stage.world.fetch.asked == [TokenKey("default", "https://svc.run.app")]
    assert set(headers_of(answer)) == {"authorization"}


async def test_empty_words_override_nothing() -> None:
    found, _ = await asked("svc.run.app", audience="", credential="", destination="")
    assert found == TokenKey("default", "https://svc.run.app")


async def test_our_own_listeners_may_be_overridden_too() -> None:
    stage = Stage(Policy(RULES, upstream=Destination("up.run.app"), credentials=POLICY.credentials))
    extensions = {"audience": "custom"}
    for listener, host in (("forward", "svc.run.app"), ("reverse", "x"), ("tunnel", "t.run.app")):
        answer = await stage.check(host, listener=listener, extensions=extensions)
        assert ":authority" in headers_of(answer)
    assert stage.world.fetch.asked == [TokenKey("default", "custom")]


async def test_two_routes_for_one_host_are_not_mixed_up() -> None:
    stage = Stage(POLICY)
    tokens: set[Any] = set()
    for audience in ("one", "two", "one"):
        answer = await stage.check("svc.run.app", listener=None, extensions={"audience": audience})
        tokens.add(headers_of(answer)["authorization"])
    assert len(tokens) == 2
    assert [key.audience for key in stage.world.fetch.asked] == ["one", "two"]


async def test_an_audience_of_the_route_may_hold_the_functions_name() -> None:
    stage = Stage(POLICY)
    extensions = {"audience": "https://{host}{path}"}
    check = request("f.example.com", listener=None, extensions=extensions)
    check.attributes.request.http.path = "/hello/x"
    await answer(stage.service, check)
    assert stage.world.fetch.asked == [TokenKey("default", "https://f.example.com/hello")]
