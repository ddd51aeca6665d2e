"""What lives longer than one request and answer: streams, long polls, 100-continue, old clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ask import request_bytes, verdict
from tests.support.messages import Reply, sse_reply
from tests.support.polling import elapsed
from tests.support.raw import RawConnection
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Address, Sidecar
from tests.support.tunnels import claims_of
from tests.support.world import CAPTURE, World

TIMEOUT_SECONDS = 30.0
GAP_SECONDS = 0.7
POLL_SECONDS = 6.0
STREAMS = 50
CHUNKED = (("Transfer-Encoding", "chunked"),)


@pytest.fixture(params=["forward", "reverse"])
def entry(
    request: pytest.FixtureRequest, world: World, mirror: Sidecar
) -> tuple[Address, str, str]:
    """Return each port, the Host that a client of it sends, and what stands before its paths."""
    if request.param == "forward":
        return mirror.forward, world.capture_authority, f"http://{world.capture_authority}"
    return mirror.reverse, str(mirror.addresses["reverse"]), ""


Entry = tuple[Address, str, str]


@pytest.fixture
def h1(entry: Entry) -> Iterator[RawConnection]:
    """Connect as an HTTP/1 client."""
    with RawConnection(entry[0], timeout_seconds=TIMEOUT_SECONDS) as connection:
        yield connection


@pytest.fixture
def h2c(entry: Entry) -> Iterator[H2Client]:
    """Connect as an HTTP/2 client by prior knowledge."""
    with H2Client(entry[0], timeout_seconds=TIMEOUT_SECONDS) as client:
        yield client


def head(entry: Entry, path: str, *headers: tuple[str, str], method: str = "GET") -> bytes:
    """One HTTP/1.1 request without a body."""
    return request_bytes(method, f"{entry[2]}{path}", entry[1], headers)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one if it is empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_server_sent_events_arrive_one_by_one(
    world: World, entry: Entry, h1: RawConnection
) -> None:
    """The first one long before the last is sent."""
    world.capture.script("/slow-sse", sse_reply(["first", "second", "third"], GAP_SECONDS))
    h1.send(head(entry, "/slow-sse"))
    assert h1.read_head().values("content-type") == ["text/event-stream"]
    h1.read_until(b"data: first\n\n")
    started = time.monotonic()
    h1.read_until(b"data: third\n\n")
    assert elapsed(started) > GAP_SECONDS
    h1.read_until(b"0\r\n\r\n")


def test_server_sent_events_arrive_one_by_one_over_http2(
    world: World, entry: Entry, h2c: H2Client
) -> None:
    """The same for an HTTP/2 client."""
    world.capture.script("/slow-sse", sse_reply(["first", "second", "third"], GAP_SECONDS))
    stream = h2c.open(request_headers("GET", entry[1], "/slow-sse"), end=True)
    answer = h2c.wait_until(stream, lambda so_far: b"first" in so_far.body)
    assert b"third" not in answer.body
    assert h2c.wait(stream).body.count(b"data: ") == 3


def test_endless_answer_ends_with_its_client(world: World, entry: Entry, h1: RawConnection) -> None:
    """Who hangs up is not kept alive upstream."""
    endless = tuple(b"tick\n" for _ in range(600))
    world.capture.script("/endless", Reply(parts=endless, gap_seconds=0.05))
    before = len(world.capture.connections)
    h1.send(head(entry, "/endless"))
    h1.read_until(b"tick\n")
    h1.close()
    with RawConnection(entry[0], timeout_seconds=TIMEOUT_SECONDS) as again:
        assert again.send(head(entry, "/")).read_response().status == 200
    assert len(world.capture.connections) <= before + 2


def test_long_polls_are_answered(world: World, mirror: Sidecar) -> None:
    """By either port, in either version, while nothing is said for seconds."""
    world.capture.script("/poll", Reply(body=b"at last", delay_seconds=POLL_SECONDS))
    forward: Entry = mirror.forward, world.capture_authority, f"http://{world.capture_authority}"
    reverse: Entry = mirror.reverse, str(mirror.addresses["reverse"]), ""

    def poll_h1(entry: Entry) -> bytes:
        with RawConnection(entry[0], timeout_seconds=TIMEOUT_SECONDS) as connection:
            return connection.send(head(entry, "/poll")).read_response().body

    def poll_h2(entry: Entry) -> bytes:
        with H2Client(entry[0], timeout_seconds=TIMEOUT_SECONDS) as client:
            return client.request(request_headers("GET", entry[1], "/poll")).body

    with ThreadPoolExecutor(4) as pool:
        polls = [
            pool.submit(poll, entry) for poll in (poll_h1, poll_h2) for entry in (forward, reverse)
        ]
        assert [poll.result() for poll in polls] == [b"at last"] * 4


def test_chunks_go_to_and_fro_at_once(entry: Entry, h1: RawConnection) -> None:
    """Each is answered before the next is sent; no side waits for the other's end."""
    h1.send(head(entry, "/echo-stream", *CHUNKED, method="POST"))
    h1.send(chunk(b"one"))
    assert h1.read_head().status == 200
    for data in (b"one", b"two", b"three"):
        if data != b"one":
            h1.send(chunk(data))
        size = int(h1.read_until(b"\r\n"), 16)
        assert h1.read_exactly(size + 2) == data + b"\r\n"
    h1.send(chunk(b""))
    assert h1.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


def test_frames_go_to_and_fro_at_once(entry: Entry, h2c: H2Client) -> None:
    """The same over HTTP/2."""
    stream = h2c.open(request_headers("POST", entry[1], "/echo-stream"))
    for number in range(1, 4):
        h2c.send(stream, b"word")
        answer = h2c.wait_until(stream, lambda so_far, n=number: len(so_far.body) >= 4 * n)
        assert answer.body == b"word" * number
    h2c.end(stream)
    assert h2c.wait(stream).ended


def test_upstream_answers_expectations(world: World, entry: Entry, h1: RawConnection) -> None:
    """100 comes from upstream, and only then the body goes."""
    headers = (("Expect", "100-continue"), ("Content-Length", "4"))
    h1.send(head(entry, "/echo", *headers, method="PUT"))
    assert h1.read_head().status == 100
    h1.send(b"body")
    assert h1.read_response().body == b"body"
    assert world.capture.requests[-1].values("expect") == ["100-continue"]


def test_upstream_may_refuse_the_body(world: World, entry: Entry, h1: RawConnection) -> None:
    """The client is told before it sends anything."""
    world.capture.script("/too-large", Reply(status=413, accept_expectation=False))
    headers = (("Expect", "100-continue"), ("Content-Length", "1000000"))
    answer = h1.send(head(entry, "/too-large", *headers, method="PUT")).read_response()
    assert (answer.status, answer.informational) == (413, ())


def test_refusal_comes_instead_of_100(world: World, mirror: Sidecar) -> None:
    """Without a token nobody sends a body in vain."""
    target = world.cold()
    world.google.down()
    try:
        headers = (("Expect", "100-continue"), ("Content-Length", "1000000"))
        request = request_bytes("PUT", f"http://{target}/", target, headers)
        with RawConnection(mirror.forward, timeout_seconds=TIMEOUT_SECONDS) as connection:
            answer = connection.send(request).read_response()
    finally:
        world.google.up()
    assert (*verdict(answer), answer.informational) == (503, "token_unavailable", ())


def test_h2c_by_prior_knowledge_carries_many_streams(
    world: World, entry: Entry, h2c: H2Client
) -> None:
    """Interleaved on one connection, each with its own answer and its token."""
    world.capture.clear()
    streams = [h2c.open(request_headers("POST", entry[1], "/echo")) for _ in range(STREAMS)]
    for stream in streams:
        h2c.send(stream, b"%d" % stream, end=True)
    assert [h2c.wait(stream).body for stream in streams] == [b"%d" % one for one in streams]
    world.capture.wait_for(STREAMS)
    audiences = {claims_of(world, received)["aud"] for received in world.capture.requests}
    assert audiences == {f"https://{CAPTURE}"}


@pytest.mark.parametrize("path", ["/", "/chunked"])
def test_http_1_0_client_is_answered(
    world: World, entry: Entry, h1: RawConnection, path: str
) -> None:
    """Without chunks, which it does not know; the end of the connection is the end of the body."""
    h1.send(f"GET {entry[2]}{path} HTTP/1.0\r\nHost: {entry[1]}\r\n\r\n".encode())
    answer = h1.read_response()
    assert answer.status == 200
    assert not answer.values("transfer-encoding")
    body = {"/": b"Hello from the receiving service!", "/chunked": b"one,two,three"}[path]
    assert answer.body + h1.read_to_end() == body
    assert claims_of(world, world.capture.requests[-1])["aud"] == f"https://{CAPTURE}"


def test_http_1_0_client_without_a_host_is_answered(
    world: World, entry: Entry, h1: RawConnection
) -> None:
    """The absolute URL says where to, or the reverse proxy's own upstream."""
    answer = h1.send(f"GET {entry[2]}/ HTTP/1.0\r\n\r\n".encode()).read_response()
    assert answer.status == 200
    assert world.capture.requests[-1].authority == world.capture_authority
