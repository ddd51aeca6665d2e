"""The same for requests that nobody thought of, put together by hypothesis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.confusing_requests import filled
from tests.support.differential import Laboratory, laboratory
from tests.support.raw import ConnectionCut, RawConnection
from tests.support.raw_h2 import H2Client
from tests.support.tunnels import TunnelRefusedError, open_tunnel
from tests.support.world import World

TIMEOUT_SECONDS = 2.0
EXAMPLES = 120
NAMES = st.sampled_from([b"svc.test", b"other.test", b"evil.test", b"SVC.Test", b"a.svc.test"])
GLUE = st.sampled_from(
    [
        b"",
        b"",
        b".",
        b"..",
        b"@",
        b",",
        b", ",
        b"/",
        b"\\",
        b"#",
        b"?",
        b"%2e",
        b"%40",
        b"%00",
        b";",
        b"&",
        b"\t",
        b" ",
        b"\r",
        b"\n",
        b"\0",
        b"\xc2\xad",
        b"\xe3\x80\x82",
        b"[",
        b"]",
        b":",
    ]
)
PORTS = st.sampled_from(
    [b":{port}", b":{port}", b":{port}", b"", b":", b":0{port}", b":{wrapped}", b":80", b":443"]
)
AUTHORITIES = st.tuples(NAMES, GLUE, st.one_of(st.just(b""), NAMES), GLUE, PORTS).map(b"".join)
PLAIN = st.tuples(NAMES, PORTS).map(b"".join)
TARGETS = st.one_of(
    st.just(b"/p"),
    AUTHORITIES.map(lambda one: b"http://" + one + b"/p"),
    AUTHORITIES.map(lambda one: b"//" + one + b"/p"),
    AUTHORITIES.map(lambda one: b"https://" + one + b"/p"),
)
FIELDS = st.sampled_from(
    [
        b"Host",
        b"Host",
        b"host",
        b"X-Forwarded-Host",
        b"X-Original-Host",
        b"Forwarded",
        b"X-Host",
        b"Authorization",
        b"X-Serverless-Authorization",
        b"Connection",
        b"Proxy-Authorization",
    ]
)
HEADERS = st.lists(st.tuples(FIELDS, AUTHORITIES), max_size=4)
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"])
LOOSE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def lab(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Run the four hosts, the relay, the service and Envoy; every request is asked for."""
    off = "--no-credential-cache"
    with laboratory(world, tmp_path_factory.mktemp("generated"), off) as found:
        yield found


def opened(lab: Laboratory, entry: str) -> RawConnection:
    """A connection to a listener, or inside a tunnel."""
    if entry == "inner":
        authority = f"other.test:{lab.port}"
        return open_tunnel(lab.entries["forward"], authority, timeout=TIMEOUT_SECONDS)
    return RawConnection(lab.entries[entry], timeout_seconds=TIMEOUT_SECONDS)


@LOOSE
@given(
    entry=st.sampled_from(["forward", "forward", "reverse", "inner"]),
    target=TARGETS,
    host=st.one_of(PLAIN, AUTHORITIES),
    headers=HEADERS,
    version=VERSIONS,
)
def test_any_request_is_judged_dialled_and_received_as_one_host(
    lab: Laboratory,
    entry: str,
    target: bytes,
    host: bytes,
    headers: list[tuple[bytes, bytes]],
    version: bytes,
) -> None:
    """Or as none."""
    lines = [b"GET " + target + b" " + version, b"Host: " + host]
    lines += [name + b": " + value for name, value in headers]
    raw = filled(b"\r\n".join([*lines, b"Connection: close", b"", b""]), lab.port)
    with (
        lab.tracing() as trace,
        contextlib.suppress(TunnelRefusedError, ConnectionCut, OSError),
        opened(lab, entry) as connection,
    ):
        connection.send(raw).read_response()
    lab.judge(trace)
    assert len(trace.hosts) <= 1


@LOOSE
@given(
    entry=st.sampled_from(["forward", "reverse"]),
    authority=st.one_of(PLAIN, AUTHORITIES),
    headers=HEADERS,
    scheme=st.sampled_from(["http", "http", "https", "ftp"]),
)
def test_any_http2_request_is_judged_dialled_and_received_as_one_host(
    lab: Laboratory,
    entry: str,
    authority: bytes,
    headers: list[tuple[bytes, bytes]],
    scheme: str,
) -> None:
    """Or as none."""
    fields = [(b":method", b"GET"), (b":scheme", scheme.encode()), (b":authority", authority)]
    fields += [(b":path", b"/p"), *((name.lower(), value) for name, value in headers)]
    texts = tuple(
        (name.decode(), filled(value, lab.port).decode("latin-1")) for name, value in fields
    )
    with (
        lab.tracing() as trace,
        contextlib.suppress(OSError),
        H2Client(lab.entries[entry], timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        client.request(texts)
    lab.judge(trace)
    assert len(trace.hosts) <= 1
