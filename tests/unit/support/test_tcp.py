"""The TCP server speaks first, echoes, half-closes, resets and reports the SNI."""

from __future__ import annotations

import contextlib

import trustme

from tests.support.raw import RawConnection
from tests.support.tcp import TcpServer
from tests.support.tls import client_context, server_context


def test_speaks_first_echoes_and_says_farewell_after_half_close() -> None:
    """The greeting needs no request; the farewell comes after our direction ended."""
    with TcpServer(greeting=b"220 hi\r\n", farewell=b"bye") as server:
        with RawConnection(server.address) as connection:
            assert connection.read_exactly(8) == b"220 hi\r\n"
            assert connection.send(b"ping").read_exactly(4) == b"ping"
            connection.half_close()
            assert connection.read_to_end() == b"bye"
        session = server.wait_closed()
        assert (bytes(session.received), session.saw_end, session.sni) == (b"ping", True, None)


def test_server_may_end_its_direction_first() -> None:
    """What we send after the server's FIN still arrives."""
    with TcpServer(greeting=b"done", half_close_first=True) as server:
        with RawConnection(server.address) as connection:
            assert connection.read_to_end() == b"done"
            connection.send(b"late").half_close()
            session = server.wait_closed()
        assert bytes(session.received) == b"late"


def test_reset_after_some_bytes() -> None:
    """The connection is cut without a FIN."""
    with TcpServer(reset_after=3) as server, RawConnection(server.address) as connection:
        with contextlib.suppress(ConnectionResetError):
            connection.send(b"abc").read_some()
        server.wait_closed()


def test_tls_echo_reports_the_server_name() -> None:
    """The SNI of each connection is kept."""
    authority = trustme.CA()
    with TcpServer(tls=server_context(authority, "db.test", alpn=())) as server:
        with RawConnection(
            server.address, tls=client_context(authority), server_name="db.test"
        ) as connection:
            assert connection.send(b"ping").read_exactly(4) == b"ping"
        assert server.wait_closed().sni == "db.test"
