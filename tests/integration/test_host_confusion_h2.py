"""The same over HTTP/2, whose requests name their host twice or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.differential import EVIL, SVC, Laboratory, laboratory
from tests.support.messages import Headers
from tests.support.raw_h2 import H2Client
from tests.support.tunnels import TunnelledH2, TunnelRefusedError, open_tunnel
from tests.support.world import World

TIMEOUT_SECONDS = 2.0
OURS, THEIRS = "svc.test:{port}", "evil.test:{port}"
NOBODY = ""


@pytest.fixture(scope="module")
def lab(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Run the four hosts, the relay, the service and Envoy; every request is asked for."""
    off = "--no-credential-cache"
    with laboratory(world, tmp_path_factory.mktemp("confusion"), off) as found:
        yield found


def block(*more: tuple[str, str], path: str = "/p", scheme: str | None = "http") -> Headers:
    """A header block without an authority, and further headers in their order."""
    pseudo = [(":method", "GET"), (":path", path)]
    pseudo += [(":scheme", scheme)] if scheme else []
    return (*pseudo, *more)


AUTHORITY = (":authority", OURS)
CASES: dict[str, tuple[Headers, str | None]] = {
    "plain": (block(AUTHORITY), SVC),
    "host against authority": (block(AUTHORITY, ("host", THEIRS)), None),
    "host of ours against authority": (block((":authority", THEIRS), ("host", OURS)), None),
    "only host": (block(("host", OURS)), SVC),
    "two hosts": (block(AUTHORITY, ("host", THEIRS), ("host", OURS)), None),
    "two hosts and no authority": (block(("host", OURS), ("host", THEIRS)), None),
    "two authorities": (block(AUTHORITY, (":authority", THEIRS)), NOBODY),
    "authority after a header": (block(("x", "y"), AUTHORITY), NOBODY),
    "no authority": (block(), NOBODY),
    "empty authority": (block((":authority", "")), NOBODY),
    "empty authority and host": (block((":authority", ""), ("host", OURS)), None),
    "userinfo": (block((":authority", f"svc.test@{THEIRS}")), NOBODY),
    "slash": (block((":authority", f"svc.test/@{THEIRS}")), NOBODY),
    "comma": (block((":authority", f"{OURS},{THEIRS}")), NOBODY),
    "percent": (block((":authority", "svc%2etest:{port}")), NOBODY),
    "blank": (block((":authority", "svc.test evil.test")), NOBODY),
    "CR LF": (block((":authority", f"{OURS}\r\nhost: {THEIRS}")), NOBODY),
    "NUL": (block((":authority", "svc.test\0:{port}")), NOBODY),
    "Latin-1": (block((":authority", "sv\xe7.test:{port}")), NOBODY),
    "upper case": (block((":authority", "SVC.Test:{port}")), SVC),
    "trailing dot": (block((":authority", "svc.test.:{port}")), SVC),
    "zeros in the port": (block((":authority", "svc.test:0{port}")), NOBODY),
    "scheme https": (block(AUTHORITY, scheme="https"), None),
    "scheme https of evil": (block((":authority", THEIRS), scheme="https"), NOBODY),
    "scheme ftp": (block(AUTHORITY, scheme="ftp"), None),
    "no scheme": (block(AUTHORITY, scheme=None), NOBODY),
    "path is a URL": (block(AUTHORITY, path="http://evil.test:{port}/p"), None),
    "path with two slashes": (block(AUTHORITY, path="//evil.test:{port}/p"), SVC),
    "path without slash": (block(AUTHORITY, path="evil.test"), None),
    "empty path": (block(AUTHORITY, path=""), NOBODY),
    "upper-case name": (block(AUTHORITY, ("Host", THEIRS)), NOBODY),
    "connection": (block(AUTHORITY, ("connection", "authorization")), NOBODY),
    "x-forwarded-host": (block((":authority", THEIRS), ("x-forwarded-host", OURS)), EVIL),
    "path twice": (block(AUTHORITY, (":path", "/q")), NOBODY),
    "unknown pseudo": (block(AUTHORITY, (":host", THEIRS)), NOBODY),
    "protocol": (block(AUTHORITY, (":protocol", "websocket")), None),
}


def filled(headers: Headers, port: int) -> Headers:
    """Put the hosts' port into a header block."""
    return tuple((name, value.replace("{port}", str(port))) for name, value in headers)


def opened(lab: Laboratory, entry: str) -> H2Client:
    """An HTTP/2 connection to a listener, or inside a tunnel to the first host."""
    if entry == "inner":
        authority = f"{SVC}:{lab.port}"
        return TunnelledH2(open_tunnel(lab.entries["forward"], authority, timeout=TIMEOUT_SECONDS))
    return H2Client(lab.entries[entry], timeout_seconds=TIMEOUT_SECONDS)


@pytest.mark.parametrize("entry", ["forward", "reverse", "inner"])
@pytest.mark.parametrize("case", CASES)
def test_request_is_judged_dialled_and_received_as_one_host(
    lab: Laboratory, case: str, entry: str
) -> None:
    """Or as none."""
    headers, expected = CASES[case]
    with (
        lab.tracing() as trace,
        contextlib.suppress(TunnelRefusedError, OSError),
        opened(lab, entry) as client,
    ):
        client.request(filled(headers, lab.port))
    lab.judge(trace)
    if entry == "reverse":
        assert trace.hosts <= {SVC}
    elif expected is not None and entry == "forward":
        assert trace.hosts == ({expected} if expected else set()), trace.decided
