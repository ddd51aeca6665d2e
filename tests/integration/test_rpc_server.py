"""The gRPC server with real clients over real sockets: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from ext_authz.errors import StartError
from ext_authz.listen import Address
from ext_authz.rpc import Caller, Stream, Unary
from ext_authz.rpc_server import RpcServer
from ext_authz.standins.certificates import make_authority
from tests.support.loop import LoopThread
from tests.support.polling import elapsed

TIMEOUT_SECONDS = 10
SLOW_SECONDS = 0.6


async def _slow(message: bytes, caller: Caller) -> bytes:
    await asyncio.sleep(SLOW_SECONDS)
    return message


async def _echo(messages: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


METHODS = {
    "/t/Echo": Unary(lambda message, caller: message),
    "/t/Slow": Unary(_slow),
    "/t/Stream": Stream(_echo),
}


class Running:
    """A server in a loop of its own."""

    def __init__(self) -> None:
        self._thread = LoopThread("rpc")
        self.server = RpcServer(METHODS)

    def listen(self, address: Address, tls: ssl.SSLContext | None = None) -> Address:
        return self._thread.run(self.server.listen(address, tls))

    def stop(self, grace_seconds: float = 0) -> None:
        self._thread.run(self.server.stop(grace_seconds))

    def end(self) -> None:
        self.stop()
        self._thread.stop()


@pytest.fixture
def running() -> Iterator[Running]:
    found = Running()
    yield found
    found.end()


def call(channel: grpc.Channel, message: bytes, method: str = "Echo") -> bytes:
    found: bytes = channel.unary_unary(f"/t/{method}")(message, timeout=TIMEOUT_SECONDS)
    return found


def echoed(target: str) -> bytes:
    with grpc.insecure_channel(target) as channel:
        return call(channel, b"hello")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_it_listens_where_it_is_told(running: Running, host: str) -> None:
    address = running.listen(Address(host, 0))
    reached = {"0.0.0.0": ["127.0.0.1"], "::": ["[::1]", "127.0.0.1"], "::1": ["[::1]"]}
    for each in reached.get(host, [host]):
        assert echoed(f"{each}:{address.port}") == b"hello"


def test_a_port_that_is_taken_is_refused_and_the_other_server_keeps_it(running: Running) -> None:
    address = running.listen(Address("127.0.0.1", 0))
    with pytest.raises(StartError, match=f"127.0.0.1:{address.port} cannot be listened on"):
        Running().listen(address)
    assert echoed(str(address)) == b"hello"


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "x" * 70])
def test_an_address_that_is_not_ours_is_refused_with_a_sentence(
    running: Running, host: str
) -> None:
    with pytest.raises(StartError, match="cannot be listened on: "):
        running.listen(Address(host, 0))


def test_a_unix_socket_replaces_a_stale_one_and_goes_when_the_server_goes(
    running: Running, tmp_path: Path
) -> None:
    path = tmp_path / "authz.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    assert running.listen(Address(path=str(path))) == Address(path=str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert echoed(f"unix:{path}") == b"hello"
    running.stop()
    assert not path.exists()


def test_a_unix_socket_that_somebody_listens_on_is_not_taken_over(
    running: Running, tmp_path: Path
) -> None:
    path = Address(path=str(tmp_path / "authz.sock"))
    running.listen(path)
    with pytest.raises(StartError, match="something else stands there"):
        Running().listen(path)
    assert echoed(str(path)) == b"hello"


def test_a_file_in_the_way_of_a_unix_socket_stays(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("keep")
    with pytest.raises(StartError, match="something else stands there"):
        running.listen(Address(path=str(path)))
    assert path.read_text() == "keep"


def test_handshakes_that_fail_leave_nothing_behind(running: Running, tmp_path: Path) -> None:
    """An Envoy without a certificate tries again for ever."""
    leaf = make_authority(tmp_path).issue("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(leaf.certificate, leaf.key)
    address = running.listen(Address("127.0.0.1", 0), tls)
    for said in (b"no handshake at all", b"\x16\x03\x01", b""):
        with socket.create_connection((address.host, address.port), TIMEOUT_SECONDS) as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
    assert not running.server._connections
    running.stop()


def test_streams_and_large_messages_pass_both_ways(running: Running) -> None:
    address = running.listen(Address("127.0.0.1", 0))
    messages = [bytes([number % 256]) * number * 700 for number in range(60)]
    with grpc.insecure_channel(str(address)) as channel:
        stream = channel.stream_stream("/t/Stream")(iter(messages), timeout=TIMEOUT_SECONDS)
        assert list(stream) == messages
        assert call(channel, b"x" * 1_000_000) == b"x" * 1_000_000


def test_many_calls_at_once_are_all_answered(running: Running) -> None:
    """More than one connection may carry; grpc queues them, as Envoy does."""
    address = running.listen(Address("127.0.0.1", 0))
    with grpc.insecure_channel(str(address)) as channel:
        method = channel.unary_unary("/t/Slow")
        calls = [method.future(b"%d" % n, timeout=TIMEOUT_SECONDS) for n in range(1500)]
        assert [each.result() for each in calls] == [b"%d" % n for n in range(1500)]


def test_stopping_lets_an_answer_go_out_and_takes_no_new_connection(running: Running) -> None:
    address = running.listen(Address("127.0.0.1", 0))
    with grpc.insecure_channel(str(address)) as channel:
        assert call(channel, b"x") == b"x"
        waiting = channel.unary_unary("/t/Slow").future(b"hello", timeout=TIMEOUT_SECONDS)
        stream = channel.stream_stream("/t/Stream")(iter([b"x"]), timeout=TIMEOUT_SECONDS)
        assert next(stream) == b"x"
        time.sleep(0.1)
        started = time.monotonic()
        running.stop(grace_seconds=5)
        assert SLOW_SECONDS / 2 < elapsed(started) < 4  # a stream has no end to wait for
        assert waiting.result() == b"hello"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), 1)


def test_stopping_ends_what_takes_too_long(running: Running) -> None:
    address = running.listen(Address("127.0.0.1", 0))
    with grpc.insecure_channel(str(address)) as channel:
        waiting = channel.unary_unary("/t/Slow").future(b"hello", timeout=TIMEOUT_SECONDS)
        time.sleep(0.2)
        running.stop(grace_seconds=0.05)
        assert waiting.exception().code() is grpc.StatusCode.UNAVAILABLE
