"""The client receives what the upstream answered, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.messages import Reply
from tests.support.raw import ConnectionCut
from tests.support.ways import WAYS, Answered, Call, StreamResetError, Way, large_headers

PATHS = [
    "/",
    "/empty",
    "/not-modified",
    "/duplicates",
    "/chunked",
    "/trailers",
    "/hints",
    "/sse",
    "/big",
    "/unauthorized",
    "/no-such-path",
]
# What proxies like to write themselves; the upstream's own must pass.
OWN = (
    ("server", "the upstream's"),
    ("date", "Sun, 22 Nov 2026 06:00:00 GMT"),
    ("via", "1.1 theirs"),
    ("x-request-id", "theirs"),
    ("x-envoy-upstream-service-time", "7"),
    ("x-envoy-decorator-operation", "theirs"),
    ("x-forwarded-for", "192.0.2.3"),
    ("alt-svc", 'h3=":443"'),
    ("strict-transport-security", "max-age=1"),
    ("set-cookie", "a=1; Secure"),
    ("set-cookie", "b=2; Path=/"),
    ("x-two", "first"),
    ("x-two", "second, with comma"),
    ("x-empty", ""),
    ("www-authenticate", 'Bearer realm="x"'),
)


ONLY_HTTP1 = pytest.mark.parametrize(
    "ways", [way for way in WAYS if "-h2" not in way], indirect=True
)


def without_added_date(answered: Answered, expected: Answered) -> Answered:
    """Take away a Date that the upstream did not send: RFC 9110, 6.6.1 has a proxy add one."""
    if "date" in expected.headers:
        return answered
    return answered._replace(headers={k: v for k, v in answered.headers.items() if k != "date"})


def assert_same(ways: tuple[Way, Way], call: Call) -> Answered:
    """Make the call both ways and compare what the client received."""
    direct, through = ways
    _, expected = direct.exchange(call)
    _, received = through.exchange(call)
    assert without_added_date(received, expected) == expected
    return received


@pytest.mark.parametrize("path", PATHS)
def test_every_shape_of_answer_arrives_as_sent(ways: tuple[Way, Way], path: str) -> None:
    """Bodies, chunks, trailers, early hints, duplicates, 204, 304, 401, 404."""
    assert_same(ways, Call(target=path))


def test_answer_to_head_keeps_its_length_and_has_no_body(ways: tuple[Way, Way]) -> None:
    """As with the direct request."""
    answered = assert_same(ways, Call("HEAD", "/head"))
    assert (answered.body, answered.headers["content-length"]) == (b"", ["12"])


def test_early_hints_come_before_the_answer(ways: tuple[Way, Way]) -> None:
    """A 103 with its Link header."""
    answered = assert_same(ways, Call(target="/hints"))
    assert [status for status, _ in answered.informational] == [103]


def test_headers_of_the_upstream_arrive_as_sent(ways: tuple[Way, Way]) -> None:
    """Also those that proxies like to write themselves."""
    ways[1].capture.script("/own", Reply(headers=OWN, body=b"x"))
    assert_same(ways, Call(target="/own"))


@pytest.mark.parametrize("count", [1, 300])
def test_64_kib_of_headers_come_back(ways: tuple[Way, Way], count: int) -> None:
    """In one header as well as in many."""
    headers = large_headers(count)
    ways[1].capture.script("/large", Reply(headers=headers))
    assert_same(ways, Call(target="/large"))


@pytest.mark.parametrize("status", [200, 201, 302, 400, 403, 418, 429, 500, 502, 503, 504])
def test_status_and_body_of_the_upstream_are_not_replaced(
    ways: tuple[Way, Way], status: int
) -> None:
    """An upstream's own error is not taken for one of the sidecar's."""
    body = b'{"theirs": true}'
    ways[1].capture.script("/status", Reply(status, (("content-type", "application/x"),), body))
    assert_same(ways, Call(target="/status"))


@ONLY_HTTP1
def test_expectation_is_answered_by_the_upstream(ways: tuple[Way, Way]) -> None:
    """100 comes only when the upstream says so; then the body is sent."""
    direct, through = ways
    call = Call("POST", "/echo", (("Expect", "100-continue"),), b"after 100")
    for way in (direct, through):
        with way.open_h1() as connection:
            connection.send(way.head_h1(call))
            assert connection.read_head().status == 100
            connection.send(call.body)
            assert connection.read_response("POST").body == b"after 100"


@ONLY_HTTP1
def test_refused_expectation_costs_no_body(ways: tuple[Way, Way]) -> None:
    """The upstream's 413 comes back before the body was sent."""
    _, through = ways
    through.capture.script("/refuse", Reply(413, accept_expectation=False, close=True))
    call = Call("POST", "/refuse", (("Expect", "100-continue"),), b"never sent")
    with through.open_h1() as connection:
        answer = connection.send(through.head_h1(call)).read_response("POST")
    assert (answer.status, answer.informational) == (413, ())


def test_cut_answer_is_not_made_whole(ways: tuple[Way, Way]) -> None:
    """A client can tell that the upstream broke off in the middle, by a cut or a reset."""
    _, through = ways
    parts = (b"one,", b"two,", b"three")
    through.capture.script("/cut", Reply(parts=parts, cut_after_parts=2, gap_seconds=0.05))
    with pytest.raises((ConnectionCut, StreamResetError)):
        through.exchange(Call(target="/cut"))
