"""The host that was judged is the host that is dialled and verified, whatever a client writes.

Odd requests go raw to the real Envoy; what the policy saw (by a relay before the service), what was
resolved and dialled, and what each upstream received must agree. A token only ever arrives at the
host whose audience it carries.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.support.confusing_requests import CASES, OURS, THEIRS, filled
from tests.support.differential import EVIL, OTHER, SVC, Laboratory, laboratory
from tests.support.polling import until
from tests.support.raw import ConnectionCut, RawConnection
from tests.support.sidecar import Address
from tests.support.tunnels import TunnelRefusedError, open_tunnel
from tests.support.world import World

TIMEOUT_SECONDS = 2.0
REACHED_SECONDS = 5.0
ENTRIES = ("forward", "reverse", "inner")


@pytest.fixture(scope="module")
def lab(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Run the four hosts, the relay, the service and Envoy; every request is asked for."""
    off = "--no-credential-cache"
    with laboratory(world, tmp_path_factory.mktemp("confusion"), off) as found:
        yield found


def fire(lab: Laboratory, entry: str, raw: bytes) -> None:
    """Send raw bytes by one way in and read an answer for each request line in them."""
    with (
        contextlib.suppress(TunnelRefusedError, ConnectionCut, OSError),
        opened(lab, entry) as connection,
    ):
        connection.send(raw)
        for _ in range(max(1, raw.count(b" HTTP/1."))):
            connection.read_response()


def opened(lab: Laboratory, entry: str) -> RawConnection:
    """A connection to a listener, or inside a tunnel to the first host."""
    if entry != "inner":
        return RawConnection(lab.entries[entry], timeout_seconds=TIMEOUT_SECONDS)
    return open_tunnel(lab.entries["forward"], f"{SVC}:{lab.port}", timeout=TIMEOUT_SECONDS)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", CASES)
def test_request_is_judged_dialled_and_received_as_one_host(
    lab: Laboratory, case: str, entry: str
) -> None:
    """Or as none."""
    raw, expected = CASES[case]
    with lab.tracing() as trace:
        fire(lab, entry, filled(raw, lab.port))
    lab.judge(trace)
    if entry == "reverse":
        assert trace.hosts <= {SVC}
    elif expected is not None and entry == "forward":
        assert trace.hosts == ({expected} if expected else set()), trace.decided


@pytest.fixture(scope="module")
def cached(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Run the same with answers that Envoy may repeat by itself, and let it learn them."""
    with laboratory(world, tmp_path_factory.mktemp("cached")) as found:
        for name in ("plain", "other", "evil"):
            fire(found, "forward", filled(CASES[name][0], found.port))
        yield found


@pytest.mark.parametrize("case", CASES)
def test_repeated_answer_is_never_another_hosts(cached: Laboratory, case: str) -> None:
    """What Envoy remembers of one name is not taken for a name that only looks like it."""
    raw, expected = CASES[case]
    with cached.tracing() as trace:
        fire(cached, "forward", filled(raw, cached.port))
    cached.judge_tokens(trace)
    if expected is not None:
        assert trace.hosts == ({expected} if expected else set())


def test_request_that_went_astray_would_be_noticed(lab: Laboratory) -> None:
    """The judge itself: at another host, or never decided."""
    with lab.tracing() as trace:
        fire(lab, "forward", filled(CASES["plain"][0], lab.port))
    lab.judge(trace)
    (arrived,) = trace.arrived
    for wrong in (
        replace(trace, arrived=[(OTHER, arrived[1])]),
        replace(trace, arrived=[arrived, arrived]),
        replace(trace, decided=[]),
        replace(trace, dialled={"elsewhere.test"}),
    ):
        with pytest.raises(AssertionError):
            lab.judge(wrong)


def connect(proxy: Address, raw: bytes, reached: Callable[[], bool]) -> None:
    """Send a CONNECT as it is; begin TLS for another host inside if it is answered with 200."""
    loose = ssl.create_default_context()
    loose.check_hostname, loose.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        RawConnection(proxy, timeout_seconds=TIMEOUT_SECONDS) as connection,
    ):
        if connection.send(raw).read_head().status == 200:
            connection.start_tls(loose, OTHER)
            # A TLS server knows of the connection a bit later than its client.
            until(reached, REACHED_SECONDS, "it is dialled")


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        (OURS, OURS, {SVC}),
        (OURS, THEIRS, {SVC}),
        (THEIRS, OURS, {EVIL}),
        (b"SVC.test.:{port}", OURS, {SVC}),
        (b"svc.test@" + THEIRS, THEIRS, set()),
        (b"svc.test", OURS, set()),
        (b"svc.test:", OURS, set()),
        (b"svc.test:0{port}", OURS, set()),
        (OURS + b"," + THEIRS, OURS, set()),
        (OURS + b"/", OURS, set()),
        (b"http://" + OURS, THEIRS, set()),
        (b"/", OURS, set()),
    ],
)
@pytest.mark.parametrize("entry", ["forward", "reverse"])
def test_tunnel_leads_to_the_host_that_was_judged(
    lab: Laboratory, entry: str, target: bytes, host: bytes, expected: set[str]
) -> None:
    """The target counts; Host and the SNI inside lead nowhere."""
    raw = b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    names = {SVC} if entry == "reverse" else expected
    counts = {name: len(lab.servers[name].connections) for name in names}

    def reached() -> bool:
        return all(len(lab.servers[name].connections) > counts[name] for name in names)

    with lab.tracing() as trace:
        connect(lab.entries[entry], filled(raw, lab.port), reached)
    lab.judge(trace)
    assert trace.dialled <= names
    if entry == "forward":
        assert trace.dialled == expected
