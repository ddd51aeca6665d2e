"""No request leads to this machine or its metadata server, whatever name or address it goes by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ask import ask, error_of, request_bytes, verdict
from tests.support.polling import until
from tests.support.raw import RawResponse
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Sidecar
from tests.support.tcp import TcpServer
from tests.support.tunnels import TIMEOUT_SECONDS, ask_connect, open_tunnel
from tests.support.world import World

FORBIDDEN = {  # what must never be dialled, also where loopback is allowed
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata over IPv6": "fd20:ce::254",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified IPv6": "::",
    "link-local IPv6": "fe80::1",
    "multicast IPv6": "ff02::1",
    "mapped metadata": "::ffff:169.254.169.254",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
}
LOOPBACK = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.8.9.10",
    "loopback IPv6": "::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "NAT64 loopback": "64:ff9b::7f00:1",
}
PRIVATE = ["10.255.255.1", "172.31.255.1", "192.168.255.1", "100.64.0.1", "fd00::1"]
REFUSED = (403, "destination_forbidden")
REBIND_SECONDS = 25.0
CLOSED_PORT = 1

Ask = Callable[[Sidecar, str], RawResponse]


@pytest.fixture(scope="module")
def strict(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run a sidecar for which loopback is off limits, as by default."""
    config = world.config().replace("allow_loopback: true", "allow_loopback: false")
    with world.sidecar(tmp_path_factory.mktemp("strict"), config=config) as found:
        yield found


@pytest.fixture(scope="module")
def lenient(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run a sidecar that allows loopback."""
    with world.sidecar(tmp_path_factory.mktemp("lenient")) as found:
        yield found


@pytest.fixture
def trap() -> Iterator[TcpServer]:
    """Listen where nobody may come."""
    with TcpServer() as server:
        yield server


def by_http(sidecar: Sidecar, authority: str) -> RawResponse:
    """A plain request."""
    return ask(sidecar, f"http://{authority}/")


def by_connect(sidecar: Sidecar, authority: str) -> RawResponse:
    """A CONNECT."""
    return ask_connect(sidecar.forward, authority)


def by_inner_request(sidecar: Sidecar, authority: str) -> RawResponse:
    """A request inside a tunnel that was opened to a host with a rule."""
    rule = next(line for line in sidecar.config.read_text().splitlines() if "svc.localhost" in line)
    port = rule.rpartition(":")[2].rstrip('"}')
    with open_tunnel(sidecar.forward, f"inner.a.run.app:{port}") as tunnel:
        return tunnel.send(request_bytes("GET", "/", authority)).read_response()


@pytest.fixture(params=[by_http, by_connect, by_inner_request])
def way(request: pytest.FixtureRequest) -> Ask:
    """Return each kind of request that names a destination."""
    found: Ask = request.param
    return found


def literal(address: str, port: int) -> str:
    """`host:port` of an address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def name_for(world: World, *addresses: str) -> str:
    """A fresh name that leads to these addresses."""
    name = world.cold().partition(":")[0].replace("localhost", "example")
    world.dns.answer(name, *addresses)
    return name


def assert_refused(answer: RawResponse, authority: str) -> None:
    """403 in the contract's form, which names NO_PROXY."""
    assert verdict(answer) == REFUSED
    assert error_of(answer)["destination"] == authority
    assert "NO_PROXY" in error_of(answer)["message"]


@pytest.mark.parametrize("kind", {**FORBIDDEN, **LOOPBACK})
def test_literal_is_refused(strict: Sidecar, way: Ask, trap: TcpServer, kind: str) -> None:
    """By the service, before anything is resolved or dialled."""
    address = {**FORBIDDEN, **LOOPBACK}[kind]
    answer = way(strict, literal(address, trap.port))
    assert verdict(answer) == REFUSED
    assert "NO_PROXY" in error_of(answer)["message"]
    assert trap.sessions == []


@pytest.mark.parametrize("kind", {**FORBIDDEN, **LOOPBACK})
def test_name_is_refused_after_resolution(
    world: World, strict: Sidecar, way: Ask, trap: TcpServer, kind: str
) -> None:
    """By Envoy, with the same answer."""
    authority = f"{name_for(world, {**FORBIDDEN, **LOOPBACK}[kind])}:{trap.port}"
    assert_refused(way(strict, authority), authority)
    assert trap.sessions == []


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_allow_loopback_opens_nothing_else(
    world: World, lenient: Sidecar, way: Ask, kind: str
) -> None:
    """Neither for literals nor for names."""
    authority = f"{name_for(world, FORBIDDEN[kind])}:{CLOSED_PORT}"
    assert_refused(way(lenient, authority), authority)
    assert verdict(way(lenient, literal(FORBIDDEN[kind], CLOSED_PORT))) == REFUSED


def test_allow_loopback_opens_loopback(lenient: Sidecar, trap: TcpServer) -> None:
    """By address and by name."""
    for host in ("127.0.0.1", "localhost", "any.localhost"):
        with open_tunnel(lenient.forward, f"{host}:{trap.port}") as tunnel:
            assert tunnel.send(b"\0").read_exactly(1) == b"\0"


@pytest.mark.parametrize("host", ["metadata.google.internal", "metadata", "METADATA.goog."])
def test_metadata_server_is_refused_by_name(lenient: Sidecar, way: Ask, host: str) -> None:
    """Whatever DNS says of it."""
    assert verdict(way(lenient, f"{host}:80")) == REFUSED


def test_refusal_of_a_grpc_call_is_a_grpc_status(world: World, strict: Sidecar) -> None:
    """After DNS, too: the sentence is grpc-message."""
    authority = f"{name_for(world, '127.0.0.1')}:{CLOSED_PORT}"
    headers = (("content-type", "application/grpc"), ("te", "trailers"))
    with H2Client(strict.forward, timeout_seconds=TIMEOUT_SECONDS) as client:
        answer = client.request(request_headers("POST", authority, "/a.B/C", *headers))
    assert answer.status == 200
    assert answer.values("grpc-status") == ["7"]
    assert "NO_PROXY" in answer.values("grpc-message")[0]


def test_tunnel_to_a_host_with_a_rule_is_not_dialled_either(
    world: World, strict: Sidecar, trap: TcpServer
) -> None:
    """Bytes inside it, TLS or not, meet the same guard."""
    port = world.service.port
    before = len(world.service.requests)
    for first in (b"\0raw bytes, neither TLS nor HTTP", b"\x16\x03\x01\x00\x05hello"):
        with open_tunnel(strict.forward, f"dialled.a.run.app:{port}") as tunnel:
            assert tunnel.send(first).read_to_end() == b""
    assert len(world.service.requests) == before
    assert trap.sessions == []


def test_private_ranges_stay_open(world: World, strict: Sidecar) -> None:
    """Private Service Connect lives there: they are dialled, by literal and by name."""
    targets = [literal(address, CLOSED_PORT) for address in PRIVATE]
    targets += [f"{name_for(world, address)}:{CLOSED_PORT}" for address in PRIVATE]
    with ThreadPoolExecutor(len(targets)) as pool:
        answers = list(pool.map(lambda target: by_http(strict, target), targets))
    for answer in answers:  # some networks answer for every address
        if answer.values("content-type") == ["application/json"]:
            assert verdict(answer) == (503, "upstream_unreachable")
        assert answer.status != 403


def test_name_with_a_good_and_a_bad_address_uses_the_good_one(
    world: World, lenient: Sidecar, trap: TcpServer
) -> None:
    """The bad one is not tried."""
    authority = f"{name_for(world, '169.254.169.254', '127.0.0.1')}:{trap.port}"
    with open_tunnel(lenient.forward, authority) as tunnel:
        assert tunnel.send(b"\0").read_exactly(1) == b"\0"


def test_name_that_is_rebound_is_refused(world: World, strict: Sidecar, trap: TcpServer) -> None:
    """First a public address, later loopback: what was judged once is judged each time."""
    name = name_for(world)
    world.dns.answer_in_turn(name, ("10.255.255.1",), ("127.0.0.1",))
    authority = f"{name}:{trap.port}"

    def asked_again() -> bool:
        with contextlib.suppress(TimeoutError):
            ask_connect(strict.forward, authority)
        return world.dns.queries.count((name, "A")) > 1

    until(asked_again, REBIND_SECONDS, "the name was resolved anew")
    ask_connect(strict.forward, authority)
    assert trap.sessions == []
