"""Check: facts of the request in, an answer out; nothing unexpected ever becomes OK."""

from __future__ import annotations

import asyncio
import json

import pytest

from ext_authz.destination import Destination
from ext_authz.errors import SourceError
from ext_authz.policy import Policy
from ext_authz.tokens import TokenKey
from tests.unit.fakes import settle
from tests.unit.stage import RULES, Stage, error_of, headers_of, route_of


async def test_a_request_to_a_rules_host_gets_its_token() -> None:
    stage = Stage()
    response = await stage.check("Svc.Run.App")
    assert response.status.code == 0
    headers = headers_of(response)
    assert headers[":authority"] == "svc.run.app"
    assert headers["authorization"] == "Bearer " + stage.world.token()
    assert route_of(response) == "tls"
    assert stage.heard == [("inject", "*.run.app")]


async def test_the_apps_own_authorization_is_seen_and_left_alone() -> None:
    response = await Stage().check("svc.run.app", headers={"authorization": "Basic x"})
    assert "authorization" not in headers_of(response)
    assert headers_of(response)["x-serverless-authorization"].startswith("Bearer ")


async def test_a_static_token_is_asked_for_without_an_audience() -> None:
    stage = Stage()
    response = await stage.check("athens.example.com")
    assert headers_of(response)["authorization"] == "Bearer static-token"
    assert stage.world.fetch.asked == [TokenKey("athens", "")]


async def test_a_host_without_a_rule_passes_and_a_connect_is_tunnelled() -> None:
    stage = Stage()
    assert route_of(await stage.check("example.com")) == "plain"
    assert route_of(await stage.check("example.com:443", method="CONNECT")) == "tunnel"
    assert route_of(await stage.check("svc.run.app:443", method="CONNECT")) == "inspect"
    assert stage.heard == [("pass", ""), ("tunnel", ""), ("tunnel", "*.run.app")]
    assert stage.world.fetches == 0


async def test_the_reverse_listener_takes_the_upstream() -> None:
    stage = Stage(Policy(RULES, upstream=Destination("up.run.app")))
    response = await stage.check("localhost:9090", listener="reverse")
    assert headers_of(response)[":authority"] == "up.run.app"
    assert error_of(await Stage().check("localhost:9090", listener="reverse")) == "no_upstream"


async def test_without_a_listener_an_envoy_that_is_not_ours_is_answered() -> None:
    assert route_of(await Stage().check("svc.run.app", listener=None)) == "tls"


async def test_an_unknown_listener_never_lets_a_bare_request_through() -> None:
    response = await Stage().check("example.com", listener="intercepted2")
    assert response.status.code != 0


@pytest.mark.parametrize(
    ("host", "error", "status"),
    [
        ("", "bad_destination", 400),
        ("a,b", "bad_destination", 400),
        ("user@svc.run.app", "bad_destination", 400),
        ("169.254.169.254", "destination_forbidden", 403),
    ],
)
async def test_refusals_are_counted_under_their_word(host: str, error: str, status: int) -> None:
    stage = Stage()
    response = await stage.check(host)
    assert error_of(response) == error
    assert response.denied_response.status.code == status
    assert stage.heard == [(error, "")]


async def test_without_a_token_the_request_is_refused_with_retry_after() -> None:
    stage = Stage()
    stage.error = SourceError("the source is down", code="source_refused", retry_after_seconds=6.4)
    response = await stage.check("svc.run.app")
    assert error_of(response) == "token_unavailable"
    denied = response.denied_response
    assert denied.status.code == 503
    assert "the source is down" in json.loads(denied.body)["message"]
    assert {h.header.key: h.header.value for h in denied.headers}["retry-after"] == "7"
    assert stage.heard == [("token_unavailable", "")]
    stage.world.clock.advance(6.39)
    again = await stage.check("svc.run.app")
    assert {h.header.key: h.header.value for h in again.denied_response.headers}[
        "retry-after"
    ] == "1"


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto"])
async def test_a_grpc_call_is_refused_with_a_plain_sentence(kind: str) -> None:
    stage = Stage()
    stage.error = SourceError("the source is down", code="source_refused")
    response = await stage.check("svc.run.app", headers={"content-type": kind})
    assert response.denied_response.body == "token_unavailable: the source is down"


async def test_the_same_token_gives_the_same_bytes_and_a_new_one_gives_new_ones() -> None:
    stage = Stage()
    first = await stage.raw("svc.run.app")
    assert await stage.raw("svc.run.app") == first
    stage.world.clock.advance(1900)
    assert await stage.raw("svc.run.app") == first
    await settle()
    second = await stage.raw("svc.run.app")
    assert second != first
    assert stage.world.token().encode() in second


async def test_another_policy_takes_effect_at_once() -> None:
    stage = Stage()
    assert route_of(await stage.check("svc.run.app")) == "tls"
    stage.service.use(Policy((), pass_others=False), worker_cache=False)
    assert error_of(await stage.check("svc.run.app")) == "destination_denied"


@pytest.mark.parametrize("error", [RuntimeError("secret"), KeyError("x"), OverflowError()])
async def test_an_unexpected_exception_is_never_an_ok_answer(error: Exception) -> None:
    stage = Stage()
    stage.error = error
    try:
        response = await stage.check("svc.run.app")
    except Exception:  # noqa: BLE001  to gRPC an exception is an error, which denies
        return
    assert response.status.code != 0
    assert "secret" not in str(response)


async def test_a_cancelled_check_leaves_the_token_for_the_next() -> None:
    stage = Stage()
    stage.world.fetch.answers = None
    check = asyncio.create_task(stage.raw("svc.run.app"))
    await settle()
    check.cancel()
    await asyncio.gather(check, return_exceptions=True)
    await stage.world.fetch.hand_over(stage.world.token())
    assert route_of(await stage.check("svc.run.app")) == "tls"
    assert stage.world.fetches == 1


async def test_200_cold_checks_are_200_answers_and_one_fetch() -> None:
    stage = Stage()
    answers = await asyncio.gather(*(stage.raw("svc.run.app") for _ in range(200)))
    assert len(set(answers)) == 1
    assert stage.world.fetches == 1
