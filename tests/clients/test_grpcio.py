"""The real grpcio: every kind of call by every way in, and streams that nothing cuts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest

from ext_authz.standins.grpc_service import GrpcService
from tests.clients.conftest import Run
from tests.support.grpc_behaviour import GrpcBehaviour
from tests.support.grpc_calls import (
    WAYS,
    Caller,
    GrpcCall,
    Way,
    authority_of,
    call_grpcio,
    open_channel,
    way_in,
)
from tests.support.polling import elapsed
from tests.support.sidecar import Sidecar

LONG_SECONDS = 17.0  # Envoy's default route timeout cuts at 15 s
LARGE_BYTES = 3_500_000  # just below gRPC's own default limit
CALLS = 200
# An app as it is in production: nothing but a target; the proxy stands in its environment.
APP = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    print(channel.unary_unary("/idtoken.Echo/Unary")(b"from the environment", timeout=20).decode())
"""


class TestGrpcio(GrpcBehaviour):
    """grpcio in this process."""

    @pytest.fixture
    def caller(self) -> Caller:
        """Return what makes a call."""
        return call_grpcio

    def test_large_message_passes(self, way: Way) -> None:
        """Both ways, whole."""
        text = "m" * LARGE_BYTES
        assert call_grpcio(way, GrpcCall(messages=(text,))).messages == (text,)

    def test_binary_metadata_is_intact(self, way: Way, service: GrpcService) -> None:
        """Every byte value, as gRPC encodes it."""
        value: Any = bytes(range(256))
        answer = call_grpcio(way, GrpcCall(metadata=(("x-some-bin", value),)))
        assert answer.code == 0, answer.details
        assert dict(service.calls[-1].metadata)["x-some-bin"] == value

    def test_every_call_of_one_channel_gets_its_token(self, way: Way, service: GrpcService) -> None:
        """Though only the first one of a tunnel made a CONNECT."""
        before = len(service.calls)
        sent = [str(number).encode() for number in range(CALLS)]
        with open_channel(way) as channel:
            echo = channel.unary_unary("/idtoken.Echo/Unary")
            running = [echo.future(message, timeout=30) for message in sent]
            assert [one.result() for one in running] == sent
        assert [one.refusal for one in service.calls[before:]] == [None] * CALLS

    def test_conversation_goes_to_and_fro(self, way: Way) -> None:
        """Each message is answered while the stream stays open."""
        said: SimpleQueue[bytes | None] = SimpleQueue()
        with open_channel(way) as channel:
            heard = channel.stream_stream("/idtoken.Echo/Bidi")(iter(said.get, None), timeout=30)
            for word in (b"one", b"two", b"three"):
                said.put(word)
                assert next(heard) == word
            said.put(None)
            assert list(heard) == []

    def test_proxy_of_the_environment_is_used(
        self, run: Run, through: Sidecar, service: GrpcService
    ) -> None:
        """http_proxy alone is enough for an app that knows nothing of the sidecar."""
        environ = {"http_proxy": through.proxy_url}
        done = run(sys.executable, "-c", APP, authority_of(service), environ=environ)
        assert done.stdout.decode().strip() == "from the environment", done.stderr

    @pytest.mark.slow
    def test_silent_stream_of_17_seconds_is_not_cut(
        self, through: Sidecar, service: GrpcService
    ) -> None:
        """By any way in, all at once; its second message still arrives."""
        metadata = (("x-count", "2"), ("x-interval-seconds", str(LONG_SECONDS / 2)))
        call = GrpcCall("ServerStream", metadata=metadata, deadline_seconds=60.0)
        ways = [way_in(name, through, authority_of(service)) for name in WAYS]
        started = time.monotonic()
        with ThreadPoolExecutor(len(ways)) as pool:
            answers = list(pool.map(lambda way: call_grpcio(way, call), ways))
        assert elapsed(started) >= LONG_SECONDS
        found = [(answer.code, answer.messages) for answer in answers]
        assert found == [(0, ("hello", "hello"))] * len(ways)

    def test_no_time_limit_is_configured(self, through: Sidecar) -> None:
        """What Envoy cuts by default (15 s per answer, 5 min of silence) is off on every path."""
        config = json.loads(through.get_admin("/config_dump"))
        routes = [found["route"] for found in _having(config, "match") if "route" in found]
        assert routes
        for route in routes:
            assert (route["timeout"], route["idle_timeout"]) == ("0s", "0s")
            assert "max_stream_duration" not in route
        managers = list(_having(config, "stat_prefix", "http_filters"))
        assert len(managers) >= len(WAYS)
        for manager in managers:
            assert manager["stream_idle_timeout"] == "0s"
            common = manager["common_http_protocol_options"]
            assert not {"request_timeout", "max_stream_duration"} & {*manager, *common}


def _having(node: Any, *keys: str) -> Iterator[dict[str, Any]]:
    """Find every mapping below `node` with these keys."""
    if isinstance(node, dict):
        if all(key in node for key in keys):
            yield node
        for child in node.values():
            yield from _having(child, *keys)
    elif isinstance(node, list):
        for child in node:
            yield from _having(child, *keys)
