"""Check: facts of the request in, an answer out; nothing unexpected ever becomes OK."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ext_authz.check_service import MAX_CACHE_SECONDS, MAX_REMEMBERED, CheckService
from ext_authz.destination import MAX_AUTHORITY_LENGTH, Destination
from ext_authz.errors import SourceError
from ext_authz.policy import Policy
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rules import Rule
from ext_authz.tokens import SAFETY_MARGIN_SECONDS, Fetched, TokenKey
from tests.unit.fakes import World, settle

RULES = (Rule("*.run.app", "default"), Rule("athens.example.com", "athens", audience=None))


class Stage:
    """A service over a real cache with a fake source; `heard` is what on_check was told."""

    def __init__(self, policy: Policy | None = None, *, worker_cache: bool = False) -> None:
        self.world = World(self._mint)
        self.error: Exception | None = None
        self.heard: list[tuple[str, str]] = []
        self.service = CheckService(
            policy or Policy(RULES),
            self.world.cache,
            lambda outcome, rule: self.heard.append((outcome, rule)),
            worker_cache=worker_cache,
            clock=self.world.clock,
        )

    def _mint(self, key: TokenKey) -> Fetched:
        if self.error is not None:
            raise self.error
        if not key.audience:
            return Fetched("static-token", recheck_seconds=60)
        return Fetched(self.world.token(3600, key.audience))

    async def raw(self, host: str, **more: Any) -> bytes:
        return await self.service.check(request(host, **more))

    async def check(self, host: str, **more: Any) -> pb.CheckResponse:
        return pb.CheckResponse.FromString(await self.raw(host, **more))


def request(
    host: str,
    *,
    listener: str | None = "forward",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    extensions: dict[str, str] | None = None,
) -> pb.CheckRequest:
    message = pb.CheckRequest()
    http = message.attributes.request.http
    http.host, http.method = host, method
    http.headers.update(headers or {})
    if listener is not None:
        message.attributes.context_extensions["listener"] = listener
    message.attributes.context_extensions.update(extensions or {})
    return message


def cache_seconds(response: pb.CheckResponse) -> float:
    fields = dict(response.dynamic_metadata)
    assert ("value" in fields) == ("cache_seconds" in fields)
    return float(fields.get("cache_seconds", 0))


def headers_of(response: pb.CheckResponse) -> dict[str, str]:
    return {option.header.key: option.header.value for option in response.ok_response.headers}


def route_of(response: pb.CheckResponse) -> str:
    return str(response.dynamic_metadata["route"])


def error_of(response: pb.CheckResponse) -> str:
    assert response.status.code != 0
    return str(json.loads(response.denied_response.body)["error"])


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


async def test_only_our_own_envoy_may_repeat_an_answer_and_only_where_it_is_switched_on() -> None:
    asks = {"credential_cache": "1"}
    on = Stage(worker_cache=True)
    assert 0 < cache_seconds(await on.check("svc.run.app", extensions=asks)) <= MAX_CACHE_SECONDS
    assert cache_seconds(await on.check("svc.run.app")) == 0
    assert cache_seconds(await Stage().check("svc.run.app", extensions=asks)) == 0
    on.service.use(Policy(RULES), worker_cache=False)
    assert cache_seconds(await on.check("svc.run.app", extensions=asks)) == 0


async def test_no_answer_is_repeated_into_the_margin_of_its_token() -> None:
    stage = Stage(worker_cache=True)
    await stage.check("svc.run.app")
    stage.error = SourceError("down", code="source_unreachable")
    stage.world.clock.advance(3600 - SAFETY_MARGIN_SECONDS - 12)
    for left in range(12, 0, -1):
        response = await stage.check("svc.run.app", extensions={"credential_cache": "1"})
        assert cache_seconds(response) <= min(left, MAX_CACHE_SECONDS)
        stage.world.clock.advance(1)
    assert error_of(await stage.check("svc.run.app")) == "token_unavailable"


async def test_more_destinations_than_are_remembered_are_all_answered() -> None:
    stage = Stage()
    for number in range(MAX_REMEMBERED + 10):
        assert await stage.raw(f"h{number}.example.com")
    assert route_of(await stage.check("h0.example.com")) == "plain"


async def test_authorities_too_long_to_be_good_are_not_kept_in_memory() -> None:
    import gc

    stage = Stage()
    host = "x" * (MAX_AUTHORITY_LENGTH + 1)
    await stage.raw(host)
    kept = [
        one
        for one in gc.get_objects()
        if isinstance(one, dict) and any(getattr(key, "authority", "") == host for key in one)
    ]
    assert kept == []


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
