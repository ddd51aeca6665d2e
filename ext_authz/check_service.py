"""The ext_authz edge: CheckRequest in, decision, token, CheckResponse out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc

from ext_authz import answers
from ext_authz.destination import MAX_AUTHORITY_LENGTH
from ext_authz.errors import TokenUnavailableError
from ext_authz.policy import (
    Decision,
    Deny,
    DenyCode,
    Inject,
    Listener,
    Pass,
    Policy,
    Request,
    Tunnel,
    decide,
)
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import Token, TokenKey

SERVICE_NAME = "envoy.service.auth.v3.Authorization"
MAX_REMEMBERED = 4096  # decisions and answers; both are remade when asked for again

OnCheck = Callable[[str, str], None]


class CheckService:
    """Answers Check. `on_check(outcome, rule)` hears of every answer.

    Decisions are remembered by their facts and answers by their token, because one app asks the
    same few things for hours.
    """

    def __init__(self, policy: Policy, tokens: TokenCache, on_check: OnCheck) -> None:
        self._policy = policy
        self._tokens = tokens
        self._on_check = on_check
        self._decisions: dict[Request, Decision] = {}
        self._answers: dict[Inject, tuple[Token, bytes]] = {}

    def use(self, policy: Policy) -> None:
        """Decide by another policy from now on."""
        self._policy = policy
        self._decisions.clear()
        self._answers.clear()

    async def check(self, message: pb.CheckRequest, context: Any = None) -> bytes:
        """Answer one CheckRequest with a serialised CheckResponse; never raises."""
        http = message.attributes.request.http
        decision = self._decide(_facts(message))
        if isinstance(decision, Inject):
            key = TokenKey(decision.rule.credential, decision.audience)
            try:
                token = self._tokens.peek(key) or await self._tokens.get(key)
            except TokenUnavailableError as error:
                decision = _unavailable(decision, error)
            else:
                self._on_check("inject", decision.rule.match)
                return self._injected(decision, token)
        return self._without_token(decision, http)

    def _decide(self, request: Request) -> Decision:
        decision = self._decisions.get(request)
        if decision is None:
            decision = decide(request, self._policy)
            if len(request.authority) > MAX_AUTHORITY_LENGTH:
                return decision  # refused, and too long to be worth remembering
            _remember(self._decisions, request, decision)
        return decision

    def _injected(self, decision: Inject, token: Token) -> bytes:
        held = self._answers.get(decision)
        if held is not None and held[0] is token:
            return held[1]
        answer = answers.inject(decision, token)
        _remember(self._answers, decision, (token, answer))
        return answer

    def _without_token(self, decision: Pass | Tunnel | Deny | Inject, http: Any) -> bytes:
        match decision:
            case Pass():
                self._on_check("pass", "")
                return answers.passed(decision)
            case Tunnel():
                self._on_check("tunnel", decision.rule.match if decision.rule else "")
                return answers.tunnel(decision)
            case Deny():
                self._on_check(decision.code.word, "")
                is_grpc = http.headers.get("content-type", "").startswith("application/grpc")
                return answers.deny(decision, is_grpc=is_grpc)
        raise AssertionError(decision)  # an exception is an error to Envoy: it denies

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a grpc.aio server needs to serve `Check`."""
        method: Any = grpc.unary_unary_rpc_method_handler(
            self.check, request_deserializer=pb.CheckRequest.FromString
        )
        return grpc.method_handlers_generic_handler(SERVICE_NAME, {"Check": method})


def _facts(message: pb.CheckRequest) -> Request:
    http = message.attributes.request.http
    try:
        listener = Listener(message.attributes.context_extensions.get("listener", "bare"))
    except ValueError:
        listener = Listener.UNKNOWN
    return Request(
        listener=listener,
        authority=http.host,
        is_connect=http.method == "CONNECT",
        has_authorization="authorization" in http.headers,
    )


def _unavailable(decision: Inject, error: TokenUnavailableError) -> Deny:
    return Deny(
        DenyCode.TOKEN_UNAVAILABLE,
        error.message,
        decision.destination.authority(),
        retry_after_seconds=max(1, math.ceil(error.retry_after_seconds)),
    )


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key] = value
