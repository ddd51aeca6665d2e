"""A Check service over a real cache with a fake source, and how its answers are read."""

from __future__ import annotations

import json
from typing import Any

from ext_authz.check_service import CheckService
from ext_authz.policy import Policy
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rpc import Caller, whole
from ext_authz.rules import Rule
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import World

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
        return await answer(self.service, request(host, **more))

    async def check(self, host: str, **more: Any) -> pb.CheckResponse:
        return pb.CheckResponse.FromString(await self.raw(host, **more))


async def answer(service: CheckService, message: pb.CheckRequest) -> bytes:
    """Ask as the server does, which gets some answers at once."""
    return await whole(service.check(message.SerializeToString(), Caller()))


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
