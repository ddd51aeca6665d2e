"""Hosts that no request may reach through the sidecar, in every way of writing them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.destination import forbidden_reason, parse_authority


def reason(text: str, *, allow_loopback: bool = False, metadata_host: str = "") -> str | None:
    return forbidden_reason(
        parse_authority(text), allow_loopback=allow_loopback, metadata_host=metadata_host
    )


METADATA = [
    "metadata.google.internal",
    "METADATA.google.internal.",
    "metadata.google.internal:8080",
    "metadata",
    "metadata.goog",
    "169.254.169.254",
    "169.254.169.254:80",
    "[fd20:ce::254]",
    "[fd20:00ce:0::0254]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
]
LOOPBACK = [
    "localhost",
    "LOCALHOST.",
    "localhost:8080",
    "app.localhost",
    "127.0.0.1",
    "127.255.255.254",
    "[::1]",
    "[0:0:0:0:0:0:0:1]:80",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
]
NEVER = [
    "169.254.1.1",
    "169.254.170.2",  # the container metadata of another cloud
    "[fe80::1]",
    "[::ffff:169.254.0.1]",
    "[64:ff9b::169.254.0.1]",
    "0.0.0.0",
    "0.1.2.3",
    "[::]",
    "[::ffff:0.0.0.0]",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
    "[64:ff9b:1::a9fe:a9fe]",
    "[::169.254.169.254]",
    "[::127.0.0.1]",
    "[2002:a9fe:a9fe::1]",  # 6to4 of 169.254.169.254, RFC 3056
]
ALLOWED = [
    "svc.run.app",
    "metadata.example.com",
    "xmetadata.google.internal",
    "notlocalhost",
    "localhost.example.com",
    "10.0.0.1",
    "192.168.1.1",
    "8.8.8.8",
    "[2001:4860:4860::8888]",
    "[fd00::1]",
    "[::ffff:8.8.8.8]",
    "[64:ff9b::8.8.8.8]",
]


@pytest.mark.parametrize("allow_loopback", [False, True])
@pytest.mark.parametrize("text", METADATA)
def test_the_metadata_server_is_never_reached(text: str, allow_loopback: bool) -> None:
    assert reason(text, allow_loopback=allow_loopback) == "the metadata server"


@pytest.mark.parametrize("text", LOOPBACK)
def test_loopback_is_reached_only_where_it_is_allowed(text: str) -> None:
    assert reason(text) == "a loopback address"
    assert reason(text, allow_loopback=True) is None


@pytest.mark.parametrize("allow_loopback", [False, True])
@pytest.mark.parametrize("text", NEVER)
def test_link_local_and_other_odd_addresses_are_never_reached(
    text: str, allow_loopback: bool
) -> None:
    assert reason(text, allow_loopback=allow_loopback) is not None


@pytest.mark.parametrize("text", ALLOWED)
def test_everything_else_is_allowed(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize(
    ("metadata_host", "text"),
    [
        ("127.0.0.1:8181", "127.0.0.1:8181"),
        ("127.0.0.1:8181", "[::ffff:127.0.0.1]:8181"),
        ("meta.test:8181", "META.test:8181"),
        ("Meta.Test:8181", "meta.test:8181"),
        ("meta.test", "meta.test"),
        ("meta.test", "meta.test:80"),
        ("meta.test", "meta.test.:80"),
        ("meta.test:80", "meta.test"),
        ("meta.test.:80", "meta.test"),
    ],
)
def test_what_stands_in_for_the_metadata_server_is_not_reached_either(
    metadata_host: str, text: str
) -> None:
    found = reason(text, allow_loopback=True, metadata_host=metadata_host)
    assert found == "the metadata server"


def test_another_port_beside_the_stand_in_is_no_metadata_server() -> None:
    assert reason("127.0.0.1:9", allow_loopback=True, metadata_host="127.0.0.1:8181") is None


def test_a_nonsensical_metadata_host_forbids_nothing_else() -> None:
    assert reason("svc.run.app", metadata_host="http://x y/") is None


@given(st.ip_addresses(), st.booleans())
def test_allowing_loopback_opens_loopback_only(address: object, allow: bool) -> None:
    text = f"[{address}]" if ":" in str(address) else str(address)
    shut, opened = reason(text), reason(text, allow_loopback=True)
    assert opened == shut or (shut == "a loopback address" and opened is None)
