"""`CaptureServer` records exactly what arrives and answers as scripted, in both protocols."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from tests.support.capture import CaptureServer
from tests.support.messages import (
    BIG_BODY_BYTES,
    Reply,
    big_body,
    grpc_frame,
    grpc_messages,
)
from tests.support.raw import ConnectionCut, RawConnection, exchange_raw
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.tls import client_context, server_context

GET = b"GET %s HTTP/1.1\r\nHost: svc.run.app\r\n\r\n"


@pytest.fixture(name="server")
def fixture_server() -> Iterator[CaptureServer]:
    with CaptureServer() as server:
        yield server


def test_http1_request_is_kept_byte_for_byte(server: CaptureServer) -> None:
    """Case, order, duplicates, blanks and body framing survive in `raw` and `headers`."""
    request = (
        b"POST /echo?q=%20 HTTP/1.1\r\nHost: svc.run.app\r\nX-Two: a\r\nx-two:   b\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n"
    )
    answer = exchange_raw(server.address, request)
    seen = server.wait_for()
    assert answer.body == seen.body == b"abc"
    assert seen.raw == request
    assert seen.headers[1:3] == (("X-Two", "a"), ("x-two", "b"))
    assert seen.trailers == (("X-Trailer", "t"),)
    assert (seen.method, seen.target, seen.path) == ("POST", "/echo?q=%20", "/echo")
    assert (seen.connection.tls, seen.connection.alpn, seen.complete) == (False, None, True)


def test_http1_keep_alive_counts_one_connection(server: CaptureServer) -> None:
    """Requests on one connection share its number."""
    with RawConnection(server.address) as connection:
        for path in (b"/", b"/chunked", b"/trailers"):
            connection.send(GET % path).read_response()
    assert [one.connection.number for one in server.requests] == [0, 0, 0]


def test_http1_answers_have_every_shape(server: CaptureServer) -> None:
    """HEAD, 204, 304, chunks, trailers, 103 and duplicates arrive as scripted."""
    with RawConnection(server.address) as connection:
        head = connection.send(GET.replace(b"GET", b"HEAD") % b"/head").read_response("HEAD")
        assert (head.values("content-length"), head.body) == (["12"], b"")
        assert connection.send(GET % b"/empty").read_response().status == 204
        assert connection.send(GET % b"/not-modified").read_response().status == 304
        assert connection.send(GET % b"/chunked").read_response().body == b"one,two,three"
        ended = connection.send(GET % b"/trailers").read_response()
        assert ended.trailers == (("x-trailer", "at the end"),)
        hinted = connection.send(GET % b"/hints").read_response()
        assert [one.status for one in hinted.informational] == [103]
        twice = connection.send(GET % b"/duplicates").read_response()
        assert twice.values("set-cookie") == ["a=1", "b=2"]


def test_expectation_is_answered_or_refused(server: CaptureServer) -> None:
    """100 comes before the body is sent; a refusal comes instead of it."""
    server.script("/refuse", Reply(status=417, accept_expectation=False))
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with RawConnection(server.address) as connection:
        assert connection.send(head % b"/echo").read_head().status == 100
        assert connection.send(b"hi").read_response().body == b"hi"
        assert connection.send(head % b"/refuse").read_response().status == 417


def test_http1_body_is_echoed_while_it_comes(server: CaptureServer) -> None:
    """Both directions are open at once."""
    with RawConnection(server.address) as connection:
        connection.send(
            b"POST /echo-stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert connection.read_head().status == 200
        connection.send(b"3\r\none\r\n")
        assert connection.read_exactly(8) == b"3\r\none\r\n"
        connection.send(b"0\r\n\r\n")
        assert connection.read_exactly(5) == b"0\r\n\r\n"


def test_broken_requests_and_answers_are_seen(server: CaptureServer) -> None:
    """A client that goes away leaves an incomplete record; a cut answer raises."""
    with RawConnection(server.address) as connection:
        connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    assert (server.wait_for().complete, server.wait_for().body) == (False, b"half")
    server.script("/cut", Reply(parts=(b"one", b"two"), cut_after_parts=1))
    server.script("/raw", Reply(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"))
    for path in (b"/cut", b"/raw"):
        with pytest.raises(ConnectionCut):
            exchange_raw(server.address, GET % path)


def test_http10_answer_ends_with_the_connection(server: CaptureServer) -> None:
    """An HTTP/1.0 client gets no chunked framing."""
    answer = exchange_raw(server.address, b"GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n")
    assert answer.body == b"one,two,three"
    assert answer.values("transfer-encoding") == []


def test_http2_by_prior_knowledge(server: CaptureServer) -> None:
    """Header order with pseudo-headers, body and trailers are recorded."""
    headers = request_headers("POST", "svc.run.app", "/echo", ("x-b", "1"), ("x-a", "2"))
    with H2Client(server.address) as client:
        answer = client.request(headers, b"body", (("x-trailer", "t"),))
        late = client.request(request_headers("GET", "a", "/trailers"))
        hinted = client.request(request_headers("GET", "a", "/hints"))
    seen = server.wait_for()
    assert (answer.status, answer.body, seen.body) == (200, b"body", b"body")
    assert (seen.headers, seen.trailers) == (headers, (("x-trailer", "t"),))
    assert (late.body, late.trailers) == (b"body", (("x-trailer", "at the end"),))
    assert [dict(one)[":status"] for one in hinted.informational] == ["103"]


def test_http2_resets_are_seen_on_both_sides(server: CaptureServer) -> None:
    """A cut answer resets its stream only; a cancelled request is recorded as incomplete."""
    server.script("/cut", Reply(parts=(b"one", b"two"), cut_after_parts=1))
    with H2Client(server.address) as client:
        assert client.request(request_headers("GET", "a", "/cut")).reset is not None
        stream = client.open(request_headers("POST", "a", "/echo"))
        client.cancel(stream)
        assert client.request(request_headers("GET", "a", "/")).status == 200
    assert [one.complete for one in server.requests if one.path == "/echo"] == [False]


def test_big_bodies_pass_both_protocols(server: CaptureServer) -> None:
    """10 MB down by both, and up by HTTP/2, through the flow-control windows."""
    assert exchange_raw(server.address, GET % b"/big").body == big_body()
    with H2Client(server.address) as client:
        assert client.request(request_headers("GET", "a", "/big")).body == big_body()
        answer = client.request(request_headers("POST", "a", "/echo"), big_body())
    assert len(answer.body) == BIG_BODY_BYTES


def test_grpc_echo_streams_and_ends_with_trailers(server: CaptureServer) -> None:
    """A message comes back before the client has ended; the status travels in trailers."""
    with H2Client(server.address) as client:
        call = client.open(request_headers("POST", "a", "/grpc.Echo/Call", ("te", "trailers")))
        client.send(call, grpc_frame(b"ping"))
        answer = client.wait_until(call, lambda so_far: bool(so_far.received))
        assert grpc_messages(answer.body) == [b"ping"]
        client.end(call)
        assert dict(client.wait(call).trailers)["grpc-status"] == "0"


def test_tls_reports_alpn_and_server_name() -> None:
    """ALPN chooses the protocol; the SNI is recorded."""
    authority = trustme.CA()
    with CaptureServer(tls=server_context(authority, "svc.run.app")) as server:
        for alpn in ("h2", "http/1.1"):
            trusting = client_context(authority, alpn=[alpn])
            if alpn == "h2":
                with H2Client(server.address, tls=trusting, server_name="svc.run.app") as client:
                    client.request(request_headers("GET", "a", "/"))
            else:
                with RawConnection(
                    server.address, tls=trusting, server_name="svc.run.app"
                ) as connection:
                    connection.send(GET % b"/").read_response()
        versions = [(one.connection.alpn, one.version) for one in server.requests]
        assert versions == [("h2", "HTTP/2"), ("http/1.1", "HTTP/1.1")]
        assert {one.sni for one in server.connections} == {"svc.run.app"}


def test_websocket_echo(server: CaptureServer) -> None:
    """The handshake's accept key and one echoed frame are right (RFC 6455, 1.3 and 5.7)."""
    with RawConnection(server.address) as connection:
        connection.send(
            b"GET /websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = connection.read_response()
        assert answer.status == 101
        assert answer.values("sec-websocket-accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
        connection.send(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")  # "Hello", masked
        assert connection.read_exactly(7) == b"\x81\x05Hello"


def test_held_answer_does_not_keep_the_server_alive() -> None:
    """`stop` cuts what is open; a function may choose the reply from the head."""
    with CaptureServer(default=lambda _head: Reply(hold=True)) as server:
        connection = RawConnection(server.address)
        connection.send(GET % b"/never")
        server.wait_for()
    with connection:
        assert connection.read_to_end() == b""
