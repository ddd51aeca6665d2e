"""CONNECT: bytes untouched for any protocol, and honest failures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import error_of, verdict
from tests.support.messages import big_body
from tests.support.polling import elapsed, until
from tests.support.raw import RawConnection
from tests.support.raw_h2 import H2Client
from tests.support.sidecar import Sidecar
from tests.support.tcp import TcpServer
from tests.support.tunnels import (
    TIMEOUT_SECONDS,
    ask_connect,
    connect_bytes,
    open_tunnel,
)
from tests.support.world import World

GREETING = b"220 mail.localhost ready\r\n"
FAREWELL = b"221 bye\r\n"
OTHER, RULED = "other.localhost", "ruled.localhost"  # without a rule, and with one for every port
BYTES = big_body(2_000_000)
CLOSED_PORT = 1
IDLE_SECONDS = 11.0  # longer than Envoy waits for the head of a request
END_SECONDS = 8.0

Servers = Mapping[str, TcpServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Serve bytes in every manner."""
    made = {
        "echoes": TcpServer(),
        "greets": TcpServer(greeting=GREETING),
        "says farewell": TcpServer(echo=False, farewell=FAREWELL),
        "ends first": TcpServer(greeting=GREETING, half_close_first=True),
        "resets": TcpServer(echo=False, reset_after=4),
    }
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(server) for name, server in made.items()}


@pytest.fixture(scope="module")
def through(
    world: World, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """Run a sidecar with a rule for RULED at each of the servers' ports."""
    ports = [*(server.port for server in servers.values()), CLOSED_PORT]
    rules = [*world.rules(), *(f'{{match: "{RULED}:{port}"}}' for port in ports)]
    directory = tmp_path_factory.mktemp("connect")
    with world.sidecar(directory, config=world.config(rules=rules)) as found:
        yield found


@pytest.fixture(params=[OTHER, RULED])
def host(request: pytest.FixtureRequest) -> str:
    """Return a host without a rule, and one with a rule, whose tunnels are looked into."""
    return str(request.param)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_tunnel_carries_every_byte(
    through: Sidecar, servers: Servers, host: str, version: str
) -> None:
    """Also for Python before 3.12 and openssl, which say HTTP/1.0."""
    authority = f"{host}:{servers['echoes'].port}"
    with (
        open_tunnel(through.forward, authority, version) as tunnel,
        ThreadPoolExecutor(1) as pool,
    ):
        sending = pool.submit(tunnel.send, BYTES)
        assert tunnel.read_exactly(len(BYTES)) == BYTES
        sending.result()


def test_tunnel_over_http2_carries_every_byte(through: Sidecar, servers: Servers) -> None:
    """CONNECT as a stream (RFC 9113, 8.5)."""
    authority = f"{OTHER}:{servers['echoes'].port}"
    with H2Client(through.forward, timeout_seconds=TIMEOUT_SECONDS) as client:
        stream = client.open(((":method", "CONNECT"), (":authority", authority)))
        client.wait_until(stream, lambda so_far: bool(so_far.status))
        client.send(stream, b"\0 bytes \xff")
        answer = client.wait_until(stream, lambda so_far: len(so_far.body) >= 9)
        assert (answer.status, answer.body) == (200, b"\0 bytes \xff")


def test_server_may_speak_first(through: Sidecar, servers: Servers, host: str) -> None:
    """As mail and database servers do."""
    with open_tunnel(through.forward, f"{host}:{servers['greets'].port}") as tunnel:
        assert tunnel.read_exactly(len(GREETING)) == GREETING
        assert tunnel.send(b"EHLO\r\n").read_exactly(6) == b"EHLO\r\n"


@pytest.mark.xfail(strict=True, reason="Envoy takes the end of an HTTP/1 client for a hang-up")
def test_client_may_end_its_direction(through: Sidecar, servers: Servers, host: str) -> None:
    """And still hear the answer (TCP half-close)."""
    server = servers["says farewell"]
    with open_tunnel(through.forward, f"{host}:{server.port}") as tunnel:
        tunnel.send(b"\0that is all")
        tunnel.half_close()
        assert tunnel.read_to_end() == FAREWELL


def test_client_of_http2_may_end_its_direction(through: Sidecar, servers: Servers) -> None:
    """The stream's end is a TCP half-close, and the answer to it is heard."""
    server = servers["says farewell"]
    with H2Client(through.forward, timeout_seconds=TIMEOUT_SECONDS) as client:
        authority = f"{OTHER}:{server.port}"
        stream = client.open(((":method", "CONNECT"), (":authority", authority)))
        client.wait_until(stream, lambda so_far: bool(so_far.status))
        client.send(stream, b"\0that is all", end=True)
        assert client.wait(stream).body == FAREWELL
    assert bytes(server.sessions[-1].received) == b"\0that is all"


def test_last_words_of_either_side_arrive(through: Sidecar, servers: Servers, host: str) -> None:
    """What was said before an end is delivered, and then the end."""
    server = servers["ends first"]
    with open_tunnel(through.forward, f"{host}:{server.port}") as tunnel:
        assert tunnel.read_to_end() == GREETING
    server = servers["says farewell"]
    with open_tunnel(through.forward, f"{host}:{server.port}") as tunnel:
        tunnel.send(b"\0that is all")
    until(lambda: server.sessions[-1].saw_end, END_SECONDS, "the server heard the end")
    assert bytes(server.sessions[-1].received) == b"\0that is all"


def test_reset_of_the_server_ends_the_tunnel(through: Sidecar, servers: Servers, host: str) -> None:
    """At once, not by a time-out."""
    with open_tunnel(through.forward, f"{host}:{servers['resets'].port}") as tunnel:
        assert tunnel.send(b"\0four").read_to_end() == b""


def test_end_of_the_client_reaches_the_server(
    through: Sidecar, servers: Servers, host: str
) -> None:
    """No connection is left behind."""
    server = servers["echoes"]
    with open_tunnel(through.forward, f"{host}:{server.port}") as tunnel:
        tunnel.send(b"\0x").read_exactly(2)
        session = server.sessions[-1]
    until(lambda: session.closed, END_SECONDS, "the server's connection is closed")


@pytest.mark.slow
def test_idle_tunnel_lives(through: Sidecar, servers: Servers) -> None:
    """Silence cuts neither kind, also where the client has not said a word yet."""
    with contextlib.ExitStack() as stack:
        tunnels = [
            stack.enter_context(open_tunnel(through.forward, f"{host}:{servers['echoes'].port}"))
            for host in (OTHER, RULED, OTHER, RULED)
        ]
        for tunnel in tunnels[2:]:
            tunnel.send(b"\0a").read_exactly(2)
        time.sleep(IDLE_SECONDS)
        for tunnel in tunnels:
            assert tunnel.send(b"\0b").read_exactly(2) == b"\0b"


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (f"closed.localhost:{CLOSED_PORT}", (503, "upstream_unreachable")),
        ("nobody.invalid:443", (503, "destination_unresolvable")),
        ("169.254.169.254:80", (403, "destination_forbidden")),
        ("metadata.google.internal:443", (403, "destination_forbidden")),
        ("two..dots:443", (400, "bad_destination")),
    ],
)
def test_failure_is_the_answer_to_the_connect(
    through: Sidecar, authority: str, version: str, expected: tuple[int, str]
) -> None:
    """Not 200 and a reset: the client is told what it was."""
    answer = ask_connect(through.forward, authority, version)
    assert verdict(answer) == expected
    assert error_of(answer)["destination"] == authority


def test_denied_host_gets_403(world: World, start_sidecar: StartSidecar) -> None:
    """With other_destinations: deny, also by CONNECT."""
    own = start_sidecar(config=world.config("other_destinations: deny"))
    answer = ask_connect(own.forward, f"{OTHER}:{world.plain.port}")
    assert verdict(answer) == (403, "destination_denied")


def test_host_with_a_rule_that_refuses_ends_the_tunnel_soon(through: Sidecar) -> None:
    """Its tunnel is open before it is dialled; the client must not hang."""
    started = time.monotonic()
    with open_tunnel(through.forward, f"{RULED}:{CLOSED_PORT}") as tunnel:
        assert tunnel.send(b"\0raw").read_to_end() == b""
        assert elapsed(started) < END_SECONDS


def test_bytes_sent_before_the_answer_are_refused(through: Sidecar) -> None:
    """They could be meant as a request of their own."""
    with (
        TcpServer() as server,
        RawConnection(through.forward, timeout_seconds=TIMEOUT_SECONDS) as connection,
    ):
        connection.send(connect_bytes(f"{OTHER}:{server.port}") + b"\0too early")
        assert verdict(connection.read_response("CONNECT")) == (400, "bad_request")
        assert b"".join(bytes(one.received) for one in server.sessions) == b""
