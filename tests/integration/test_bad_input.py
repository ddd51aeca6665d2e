"""What cannot be read or must not be reached is refused, with a stable word and a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ext_authz.standins.certificates import make_authority
from tests.conftest import StartSidecar
from tests.support.ask import ask, ask_grpc, error_of, request_bytes, send, verdict
from tests.support.capture import CaptureServer
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Sidecar
from tests.support.world import World, server_tls

PORT = "1"
BAD_AUTHORITIES = [
    "user@svc.a.run.app",
    "user:password@svc.a.run.app",
    "svc.a.run.app:0",
    "svc.a.run.app:65536",
    "svc.a.run.app:99999",
    "svc.a.run.app:",
    "svc.a.run.app:80x",
    "svc..a.run.app",
    ".a.run.app",
    "-svc.a.run.app",
    "svc%2ea.run.app",
    "svc.a.run.app,other.example",
    "127.1",
    "0x7f000001",
    "2130706433",
    "[::1",
    "[fe80::1%25eth0]",
    "a" * 64 + ".a.run.app",
    "a." * 127 + "run.app",
]
FORBIDDEN = [
    "metadata.google.internal",
    "metadata.google.internal.",
    "METADATA.google.internal",
    "metadata",
    "169.254.169.254",
    "169.254.1.1",
    "169.254.169.254:8080",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd20:ce::254]",
    "[fe80::1]",
    "0.0.0.0",
    "[::]",
    "224.0.0.1",
    "255.255.255.255",
]
LOOPBACK = [
    "localhost",
    "localhost:8080",
    "anything.localhost",
    "127.0.0.1",
    "127.255.255.254:9901",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
]


@pytest.mark.parametrize("authority", BAD_AUTHORITIES)
def test_unreadable_destination_gets_400(sidecar: Sidecar, authority: str) -> None:
    """What two readers could understand differently goes nowhere."""
    answer = send(sidecar.forward, request_bytes("GET", "/", authority))
    assert verdict(answer) == (400, "bad_destination")


@pytest.mark.parametrize("authority", FORBIDDEN)
def test_forbidden_destination_gets_403(sidecar: Sidecar, authority: str) -> None:
    """By name and by literal, in every dress; the sentence names NO_PROXY."""
    answer = ask(sidecar, f"http://{authority}/computeMetadata/v1/")
    assert verdict(answer) == (403, "destination_forbidden")
    assert "NO_PROXY" in error_of(answer)["message"]


@pytest.mark.parametrize("authority", FORBIDDEN)
def test_forbidden_destination_gets_403_over_http2(sidecar: Sidecar, authority: str) -> None:
    """The same for a client that speaks HTTP/2 to the proxy."""
    with H2Client(sidecar.forward) as client:
        assert client.request(request_headers("GET", authority, "/")).status == 403


@pytest.fixture(scope="module")
def strict(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run a sidecar for which loopback is off limits, as by default, and other hosts are denied."""
    rules = [f'{{match: "*.a.run.app:{world.service.port}"}}']
    config = world.config("other_destinations: deny", rules=rules)
    config = config.replace("allow_loopback: true", "allow_loopback: false")
    with world.sidecar(tmp_path_factory.mktemp("strict"), config=config) as found:
        yield found


@pytest.mark.parametrize("authority", LOOPBACK)
def test_loopback_is_forbidden_unless_allowed(strict: Sidecar, authority: str) -> None:
    """Also the sidecar's own ports."""
    assert verdict(ask(strict, f"http://{authority}/")) == (403, "destination_forbidden")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1"]
)
def test_name_that_leads_to_a_forbidden_address_gets_403(
    world: World, strict: Sidecar, address: str
) -> None:
    """The addresses behind a name are judged after DNS, and nothing is dialled."""
    name = f"rebound{address.replace('.', '-').replace(':', '-').strip('-')}.a.run.app"
    world.dns.answer(name, address)
    world.service.forget()
    answer = ask(strict, f"http://{name}:{world.service.port}/")
    assert verdict(answer) == (403, "destination_forbidden")
    assert world.service.requests == ()


def test_other_destinations_can_be_denied(strict: Sidecar) -> None:
    """A host without a rule gets 403 and the sentence says where rules stand."""
    answer = ask(strict, "http://other.example/")
    assert verdict(answer) == (403, "destination_denied")
    assert "destinations" in error_of(answer)["message"]


def test_other_destinations_pass_untouched_by_default(world: World, sidecar: Sidecar) -> None:
    """Without a rule: in clear, without a token."""
    world.plain.clear()
    answer = ask(sidecar, f"http://other.localhost:{world.plain.port}/?a=b")
    assert answer.body == b"Hello from the receiving service!"
    received = world.plain.wait_for()
    assert (received.target, received.values("authorization")) == ("/?a=b", [])


@pytest.mark.parametrize(
    ("authority", "word"),
    [("svc..a.run.app", "bad_destination"), ("169.254.169.254", "destination_forbidden")],
)
def test_grpc_refusals_are_grpc_statuses(sidecar: Sidecar, authority: str, word: str) -> None:
    """HTTP 200 with grpc-status and the sentence as grpc-message, as gRPC clients read it."""
    answer = ask_grpc(sidecar, authority)
    assert answer.status == 200
    assert answer.values("grpc-status")[0] not in ("", "0")
    assert answer.values("grpc-message")[0].startswith(word)


def test_grpc_call_without_a_token_is_unavailable(world: World, sidecar: Sidecar) -> None:
    """Status 14, so that clients may retry."""
    world.google.down()
    try:
        answer = ask_grpc(sidecar, world.cold())
    finally:
        world.google.up()
    assert (answer.status, answer.values("grpc-status")) == (200, ["14"])
    assert answer.values("grpc-message")[0].startswith("token_unavailable")


@pytest.mark.parametrize(
    ("host", "word", "status"),
    [
        ("nobody.invalid", "destination_unresolvable", 503),
        ("closed.localhost", "upstream_unreachable", 503),
    ],
)
def test_unreachable_destination_gets_503(
    sidecar: Sidecar, host: str, word: str, status: int
) -> None:
    """In the sidecar's own form, naming the destination."""
    answer = ask(sidecar, f"http://{host}:{PORT}/")
    assert verdict(answer) == (status, word)
    assert error_of(answer)["destination"] == f"{host}:{PORT}"


@pytest.mark.parametrize("names", [("other.example",), ()], ids=["wrong name", "wrong authority"])
def test_untrusted_upstream_never_sees_the_token(
    world: World, start_sidecar: StartSidecar, names: tuple[str, ...]
) -> None:
    """A certificate for another name or of another authority: 503 and no byte of a request."""
    authority = (
        world.authority if names else make_authority(world.directory / "stranger", name="stranger")
    )
    leaf = authority.issue(*(names or ("trap.localhost",)), file_name="trap")
    with CaptureServer(tls=server_tls(leaf)) as trap:
        host = f"trap.localhost:{trap.port}"
        own = start_sidecar(config=world.config(rules=[f'{{match: "{host}"}}']))
        assert verdict(ask(own, f"http://{host}/")) == (503, "upstream_tls_failed")
        assert trap.requests == []
