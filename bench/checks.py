"""The service by itself: what a Check costs inside, and what 10,000 tokens weigh."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from bench import processes
from bench.arithmetic import beyond_own_size_mb, median
from bench.contenders import sidecar_command, write_config
from bench.stage import Stage
from ext_authz.proto import external_auth_pb2 as pb

METHOD = "/envoy.service.auth.v3.Authorization/Check"


def request_for(authority: str) -> bytes:
    """Return a CheckRequest as our Envoy sends it, as far as the service reads it."""
    message = pb.CheckRequest()
    attributes = message.attributes
    attributes.context_extensions["listener"] = "forward"
    attributes.context_extensions["credential_cache"] = "1"
    attributes.request.http.method = "GET"
    attributes.request.http.host = authority
    attributes.request.http.path = "/"
    return message.SerializeToString()


def check_method(channel: grpc.Channel) -> Callable[..., bytes]:
    """Return the method `Check` of a channel, bytes in and out."""
    method: Callable[..., bytes] = channel.unary_unary(METHOD)
    return method


@dataclass(frozen=True)
class Held:
    """Resident MB of `serve`: at first, with 100 tokens, with `count`; and the tokens' size."""

    empty_mb: float
    hundred_mb: float
    all_mb: float
    count: int
    own_bytes: int

    @property
    def beyond_mb(self) -> float:
        """By how much it grew from 100 to all, beyond what the tokens themselves take."""
        return beyond_own_size_mb(self.hundred_mb, self.all_mb, self.own_bytes)


def tokens_held(stage: Stage, count: int) -> Held:
    """Let `serve` fetch `count` tokens and weigh it."""
    config = write_config(stage, stage.directory / "held.yaml", cache=True)
    ready, log = stage.directory / "held.ready", stage.directory / "held.log"
    ready.unlink(missing_ok=True)
    environ = processes.clean_environment(stage.directory, stage.google.environment())
    command = sidecar_command(
        config, ready, "--listen=127.0.0.1:0", "--log-level=warning", command="serve"
    )
    process = processes.start(command, log, environ)
    try:
        processes.until(ready.is_file, process, log)
        empty = processes.resident_mb(process.pid)
        address = json.loads(ready.read_text())["ext_authz"]
        with grpc.insecure_channel(address) as channel:
            _ask(channel, stage, range(100))
            hundred = processes.resident_mb(process.pid)
            _ask(channel, stage, range(100, count))
        everything = processes.resident_mb(process.pid)
    finally:
        processes.stop(process)
    return Held(empty, hundred, everything, count, (count - 100) * len(stage.token))


def _ask(channel: grpc.Channel, stage: Stage, numbers: Iterable[int]) -> None:
    check = check_method(channel)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda n: check(request_for(stage.hosts % n), timeout=30), numbers):
            pass


def cost_inside_us(repeats: int = 20_000) -> float:
    """Return µs for one Check inside the service (decode, decide, answer), without gRPC."""
    from ext_authz.check_service import CheckService
    from ext_authz.clock import system_clock
    from ext_authz.policy import Policy
    from ext_authz.rpc import Caller, whole
    from ext_authz.rules import Rule
    from ext_authz.token_cache import TokenCache
    from ext_authz.tokens import Fetched, TokenKey

    async def fetch(key: TokenKey) -> Fetched:
        return Fetched(_unsigned(key.audience))

    async def measure() -> float:
        policy = Policy(rules=(Rule("a.example", "default"),))
        cache = TokenCache(fetch, clock=system_clock)
        caller = Caller()
        service = CheckService(policy, cache, lambda outcome, rule: None, worker_cache=True)
        wire = request_for("a.example")
        await whole(service.check(wire, caller))  # the token is held from now on
        found = []
        for _ in range(5):
            begin = time.process_time()
            for _ in range(repeats // 5):
                service.check(wire, caller)
            found.append((time.process_time() - begin) / (repeats // 5) * 1e6)
        await cache.close()
        return median(found)

    return asyncio.run(measure())


def _unsigned(audience: str) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {"aud": audience, "iat": now, "exp": now + 3600}
    parts = ({"alg": "RS256"}, claims)
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )
    return f"{text}.c2lnbmF0dXJl"
