"""The upstream receives what the app sent plus the credential, and nothing else."""

from __future__ import annotations

import pytest

from ext_authz.tokens import unverified_claims
from tests.support.messages import BIG_BODY_BYTES, big_body
from tests.support.ways import Answered, Call, Seen, Way, large_headers

ODD_TARGETS = [
    "//",
    "//two//slashes///three?a=//b",
    "/a%2Fb%2f%20%7e?x=%2F&y=a+b&&=&z",
    "/./a/../b/./c",
    "/;p=1,2:@!$&'()*+,=~/-._",
    '/a|b"<c>^`{d}\\e',
    "/%00%0a%ff%C3%A9",
    "/?",
    "/x?http://other.example/?y=1",
    "/" + "p" * 4000 + "?" + "q" * 4000,
]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT"]
OWN = (
    ("Accept", "text/html, */*;q=0.1"),
    ("Cookie", 'a=1; b=two; c="3"'),
    ("User-Agent", "app/1.0 (test)"),
    ("X-Empty", ""),
    ("X-Two", "first"),
    ("X-Other", "between"),
    ("x-two", "second, with comma"),
    ("X-Request-Id", "the-apps-own"),
    ("X-Forwarded-For", "192.0.2.1, 192.0.2.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public.example"),
    ("X-Forwarded-Port", "8443"),
    ("X-Forwarded-Client-Cert", "By=spiffe://app"),
    ("Forwarded", "for=192.0.2.1;proto=https"),
    ("Via", "1.1 apps-own-proxy"),
    ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("X-Cloud-Trace-Context", "105445aa7843bc8bf206b12000100000/1;o=1"),
    ("X-B3-TraceId", "463ac35c9f6413ad48485a3953bb6124"),
    ("Date", "Sun, 22 Nov 2026 06:00:00 GMT"),
    ("Server", "an odd thing to send"),
)
ENVOYS = (
    ("X-Envoy-Retry-On", "5xx"),
    ("X-Envoy-Max-Retries", "3"),
    ("X-Envoy-Upstream-Rq-Timeout-Ms", "15000"),
    ("X-Envoy-Expected-Rq-Timeout-Ms", "15000"),
    ("X-Envoy-Original-Path", "/before"),
    ("X-Envoy-Internal", "true"),
    ("X-Envoy-External-Address", "192.0.2.9"),
    ("X-Envoy-Decorator-Operation", "operation"),
)


def without_credential(received: Seen, way: Way, header: str = "authorization") -> Seen:
    """Take the one credential header away after looking at it."""
    headers = dict(received.headers)
    (value,) = headers.pop(header)
    claims = unverified_claims(value.removeprefix("Bearer "))
    assert claims["aud"] == f"https://{way.authority.partition(':')[0]}"
    return received._replace(headers=headers)


def assert_same(ways: tuple[Way, Way], call: Call) -> Answered:
    """Make the call both ways and compare what the upstream received; give the answer."""
    direct, through = ways
    expected, _ = direct.exchange(call)
    received, answered = through.exchange(call)
    assert without_credential(received, through) == expected
    return answered


@pytest.mark.parametrize("target", ODD_TARGETS)
def test_path_and_query_arrive_byte_for_byte(ways: tuple[Way, Way], target: str) -> None:
    """Slashes, dots, escapes and odd characters are not normalised."""
    assert_same(ways, Call(target=target))


@pytest.mark.parametrize("method", METHODS)
def test_methods_arrive_as_sent(ways: tuple[Way, Way], method: str) -> None:
    """Also those beyond RFC 9110."""
    assert_same(ways, Call(method))


@pytest.mark.parametrize("header", OWN, ids=lambda header: header[0])
def test_each_header_of_the_app_arrives_as_sent(
    ways: tuple[Way, Way], header: tuple[str, str]
) -> None:
    """Also those that proxies like to write themselves."""
    assert_same(ways, Call(headers=(header,)))


def test_headers_arrive_complete_and_in_order(ways: tuple[Way, Way]) -> None:
    """Duplicates keep their order; nothing is added."""
    assert_same(ways, Call(headers=OWN))


def test_headers_that_would_steer_envoy_are_not_passed_on(ways: tuple[Way, Way]) -> None:
    """README, "What it does not do": the only headers that the upstream never sees."""
    received, answer = ways[1].exchange(Call(headers=ENVOYS))
    assert answer.status == 200
    assert list(received.headers) == ["authorization"]


def test_nothing_is_added_to_a_request_without_headers(ways: tuple[Way, Way]) -> None:
    """The upstream sees the credential alone."""
    received, _ = ways[1].exchange(Call())
    assert list(received.headers) == ["authorization"]


@pytest.mark.parametrize("length", [0, 1, BIG_BODY_BYTES])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_bodies_arrive_byte_for_byte(ways: tuple[Way, Way], length: int, chunked: bool) -> None:
    """With a declared length and without one, and come back as they went."""
    call = Call("POST", "/echo", body=big_body(length), chunked=chunked)
    assert assert_same(ways, call).body == call.body


def test_request_trailers_arrive(ways: tuple[Way, Way]) -> None:
    """After the body, as trailers."""
    assert_same(ways, Call("POST", "/echo", body=b"body", trailers=(("x-sum", "abc"),)))


@pytest.mark.parametrize("count", [1, 300])
def test_64_kib_of_headers_arrive(ways: tuple[Way, Way], count: int) -> None:
    """In one header as well as in many."""
    headers = large_headers(count)
    assert_same(ways, Call(headers=headers))


def test_own_authorization_is_kept_and_the_token_travels_beside_it(ways: tuple[Way, Way]) -> None:
    """Cloud Run prefers X-Serverless-Authorization."""
    direct, through = ways
    call = Call(headers=(("Authorization", "Basic YXBwOnB3"),))
    expected, _ = direct.exchange(call)
    received, _ = through.exchange(call)
    assert without_credential(received, through, "x-serverless-authorization") == expected


@pytest.mark.parametrize("own", [(), (("Authorization", "Basic YXBwOnB3"),)])
def test_foreign_serverless_authorization_never_arrives(
    ways: tuple[Way, Way], own: tuple[tuple[str, str], ...]
) -> None:
    """It would win over our token, and arrives without a valid signature."""
    stale = ("X-Serverless-Authorization", "Bearer stale.SIGNATURE_REMOVED_BY_GOOGLE")
    received, _ = ways[1].exchange(Call(headers=(stale, *own, stale)))
    header = "x-serverless-authorization" if own else "authorization"
    rest = without_credential(received, ways[1], header)
    assert list(rest.headers) == (["authorization"] if own else [])
