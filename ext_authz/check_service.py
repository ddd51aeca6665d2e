"""The ext_authz edge: CheckRequest in, decision, token, CheckResponse out."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from ext_authz import answers, log
from ext_authz.clock import Clock, system_clock
from ext_authz.decisions import (
    NO_OVERRIDE,
    Decision,
    Deny,
    DenyCode,
    Discover,
    Inject,
    Keep,
    Listener,
    Override,
    Pass,
    Request,
    Tunnel,
    Via,
)
from ext_authz.destination import MAX_AUTHORITY_LENGTH
from ext_authz.errors import TokenUnavailableError
from ext_authz.policy import Policy, decide
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rpc import Answer, Caller, Methods, RpcError, Status, Unary, UnaryCall, whole
from ext_authz.short_names import Project
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import SAFETY_MARGIN_SECONDS, Token, TokenKey, seconds_left

SERVICE_NAME = "envoy.service.auth.v3.Authorization"
MAX_CACHE_SECONDS = 10  # a reload or a refused token takes effect everywhere within this time
MAX_REMEMBERED = 4096  # decisions and answers; both are remade when asked for again

MAX_PATH_LENGTH = 256
OnCheck = Callable[[str, str], None]
FindProject = Callable[[], Awaitable[Project | None]]


async def _no_project() -> Project | None:
    return None


class CheckService:
    """Answers Check. `on_check(outcome, rule)` hears of every answer.

    With `worker_cache` our own Envoy may repeat an answer by itself for a few seconds.

    Decisions are remembered by their facts and answers by their token, because one app asks the
    same few things for hours.
    """

    def __init__(
        self,
        policy: Policy,
        tokens: TokenCache,
        on_check: OnCheck,
        *,
        worker_cache: bool = False,
        project: FindProject = _no_project,
        clock: Clock = system_clock,
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._on_check = on_check
        self._worker_cache = worker_cache
        self._clock = clock
        self._project = project
        self._warned: set[str] = set()
        self._decisions: dict[Request, Decision] = {}
        self._answers: dict[tuple[Inject, int], tuple[Token, bytes]] = {}

    def use(self, policy: Policy, *, worker_cache: bool) -> None:
        """Decide by another policy from now on."""
        self._policy = policy
        self._worker_cache = worker_cache
        self._decisions.clear()
        self._answers.clear()

    def methods(self, guard: Callable[[UnaryCall], UnaryCall]) -> Methods:
        """Return what the server serves; `guard` may limit who calls."""
        return {f"/{SERVICE_NAME}/Check": Unary(guard(self.check))}

    def check(self, payload: bytes, caller: Caller) -> Answer:
        """Answer a CheckRequest with a CheckResponse, both serialised.

        At once where the token is held; otherwise a coroutine. Raises RpcError for other bytes.
        """
        try:
            message = pb.CheckRequest.FromString(payload)
        except DecodeError:
            raise RpcError(Status.INVALID_ARGUMENT, "expected a CheckRequest (v3)") from None
        decision = self._decide(_facts(message, with_path=self._policy.needs_path))
        if isinstance(decision, Discover):
            return self._discovered(message)
        return self._answer(message, decision)

    def _answer(self, message: pb.CheckRequest, decision: Decision) -> Answer:
        if not isinstance(decision, Inject):
            return self._without_token(decision, message.attributes.request.http)
        key = TokenKey(decision.rule.credential, decision.audience)
        token = self._tokens.peek(key)
        if token is None:
            return self._fetched(message, decision, key)
        return self._with_token(message, decision, token)

    async def _fetched(self, message: pb.CheckRequest, decision: Inject, key: TokenKey) -> bytes:
        try:
            token = await self._tokens.get(key)
        except TokenUnavailableError as error:
            refusal = _unavailable(decision, error)
            return self._without_token(refusal, message.attributes.request.http)
        return self._with_token(message, decision, token)

    def _with_token(self, message: pb.CheckRequest, decision: Inject, token: Token) -> bytes:
        self._on_check("inject", decision.rule.match)
        return self._injected(decision, token, self._cache_seconds(message, decision, token))

    async def _discovered(self, message: pb.CheckRequest) -> bytes:
        """Decide again, knowing the project, or that there is none."""
        project = await self._project()
        policy = self._policy
        # Remembered in the policy only when it is known: the metadata server may come late.
        policy = replace(policy, project=project, discovery=project is not None)
        if project is not None:
            self._policy = policy
            self._decisions.clear()
        decision = decide(_facts(message, with_path=policy.needs_path), policy)
        return await whole(self._answer(message, decision))

    def _decide(self, request: Request) -> Decision:
        decision = self._decisions.get(request)
        if decision is None:
            decision = decide(request, self._policy)
            if len(request.authority) > MAX_AUTHORITY_LENGTH or len(request.path) > MAX_PATH_LENGTH:
                return decision  # too long to be worth remembering
            _remember(self._decisions, request, decision)
        return decision

    def _cache_seconds(self, message: pb.CheckRequest, decision: Inject, token: Token) -> int:
        """Say how long Envoy's worker may repeat the answer: never into the token's margin."""
        extensions = message.attributes.context_extensions
        if not self._worker_cache or extensions.get("credential_cache") != "1":
            return 0
        if decision.depends_on_path:
            return 0  # the worker's key holds no path
        left = seconds_left(token, self._clock()) - SAFETY_MARGIN_SECONDS
        return int(max(0.0, min(MAX_CACHE_SECONDS, left)))

    def _injected(self, decision: Inject, token: Token, cache_seconds: int) -> bytes:
        key = (decision, cache_seconds)
        held = self._answers.get(key)
        if held is not None and held[0] is token:
            return held[1]
        answer = answers.inject(decision, token, cache_seconds)
        _remember(self._answers, key, (token, answer))
        return answer

    def _without_token(self, decision: Decision, http: Any) -> bytes:
        match decision:
            case Keep():
                self._on_check("keep", decision.rule.match)
                return answers.kept(decision)
            case Pass():
                self._on_check("pass", "")
                return answers.passed(decision)
            case Tunnel():
                self._on_check("tunnel", decision.rule.match if decision.rule else "")
                self._warn_of_tls(decision)
                return answers.tunnel(decision)
            case Deny():
                self._on_check(decision.code.word, "")
                is_grpc = http.headers.get("content-type", "").startswith("application/grpc")
                return answers.deny(decision, is_grpc=is_grpc)
        raise AssertionError(decision)  # an exception is an error to Envoy: it denies

    def _warn_of_tls(self, decision: Tunnel) -> None:
        """Say once per host that TLS inside a tunnel gets no token, and what to do."""
        host = decision.destination.host
        if decision.via is not Via.INSPECT or host in self._warned or len(self._warned) > 100:
            return
        self._warned.add(host)
        log.warning(
            "a CONNECT to a destination of ours: inside TLS no token can be added; "
            f"call http://{host}/ instead, or turn intercept_https on",
            destination=host,
        )


def _facts(message: pb.CheckRequest, *, with_path: bool) -> Request:
    http = message.attributes.request.http
    extensions = message.attributes.context_extensions
    try:
        listener = Listener(extensions.get("listener", "bare"))
    except ValueError:
        listener = Listener.UNKNOWN
    return Request(
        listener=listener,
        authority=http.host,
        is_connect=http.method == "CONNECT",
        has_authorization="authorization" in http.headers,
        has_proxy_authorization="proxy-authorization" in http.headers,
        path=http.path if with_path or "{path}" in extensions.get("audience", "") else "",
        override=_override(extensions),
    )


def _override(extensions: Mapping[str, str]) -> Override:
    found = [extensions.get(name, "") for name in ("destination", "audience", "credential")]
    return Override(*found) if any(found) else NO_OVERRIDE


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
