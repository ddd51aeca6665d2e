"""Addresses to listen on: how they are read, and which would hand tokens to strangers."""

from __future__ import annotations

import socket

import pytest

from ext_authz.errors import StartError, UsageError
from ext_authz.listen import Address, parse_address, require_free, require_local


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:9191", Address("127.0.0.1", 9191), "127.0.0.1:9191"),
        ("9191", Address("127.0.0.1", 9191), "127.0.0.1:9191"),
        (":0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("localhost:1", Address("localhost", 1), "localhost:1"),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535), "0.0.0.0:65535"),
        ("unix:/run/s.sock", Address(path="/run/s.sock"), "unix:/run/s.sock"),
    ],
)
def test_an_address_is_read_and_shown(text: str, address: Address, shown: str) -> None:
    assert parse_address(text, "--listen") == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text", ["", "unix:", "host", "host:", "host:x", "h:-1", "h:65536", "h:1.5", "h:" + "9" * 5000]
)
def test_anything_else_is_wrong_usage_and_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--listen: expected HOST:PORT or unix:PATH"):
        parse_address(text, "--listen")


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:x"])
def test_local_addresses_are_fine(text: str) -> None:
    address = parse_address(text, "--listen")
    assert address.is_local
    require_local(address, insecure=False)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "[fe80::1]:1"]
)
def test_an_address_that_strangers_reach_is_refused_unless_insisted_on(text: str) -> None:
    address = parse_address(text, "--listen")
    with pytest.raises(UsageError, match="--insecure-listen"):
        require_local(address, insecure=False)
    require_local(address, insecure=True)


def test_a_taken_port_is_an_error_that_names_flag_and_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"--admin-port: 127.0.0.1:{port} cannot be listened"):
            require_free("127.0.0.1", port, "--admin-port")
    require_free("127.0.0.1", port, "--admin-port")


def test_a_port_that_others_share_by_reuseport_is_taken_too() -> None:
    with socket.socket() as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("127.0.0.1", 0))
        sharing.listen()
        with pytest.raises(StartError):
            require_free("127.0.0.1", sharing.getsockname()[1], "--listen")


def test_port_0_is_always_free() -> None:
    require_free("127.0.0.1", 0, "--listen")
