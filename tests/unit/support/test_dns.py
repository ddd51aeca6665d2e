"""The DNS server answers as scripted; asked with dnspython's own resolver code."""

from __future__ import annotations

from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.dns import DnsServer


@pytest.fixture(name="server")
def fixture_server() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def ask(server: DnsServer, name: str, kind: str = "A", wait: float = 2) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return dns.query.udp(query, server.host, port=server.port, timeout=wait)


def addresses(answer: dns.message.Message) -> list[str]:
    return [item.to_text() for record in answer.answer for item in record]


def test_each_type_gets_its_addresses(server: DnsServer) -> None:
    """A and AAAA are told apart; a type without addresses is empty, not missing."""
    server.answer("both.test", "10.0.0.1", "10.0.0.2", "fd00::1")
    server.answer("four.test", "10.0.0.4")
    assert addresses(ask(server, "BOTH.test.")) == ["10.0.0.1", "10.0.0.2"]
    assert addresses(ask(server, "both.test", "AAAA")) == ["fd00::1"]
    empty = ask(server, "four.test", "AAAA")
    assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])
    assert server.queries == [("both.test", "A"), ("both.test", "AAAA"), ("four.test", "AAAA")]


def test_answers_change_in_turn(server: DnsServer) -> None:
    """Rebinding: the second query gives another address; the last one stays."""
    server.answer_in_turn("rebind.test", ["10.0.0.1"], ["127.0.0.1"])
    seen = [addresses(ask(server, "rebind.test")) for _ in range(3)]
    assert seen == [["10.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]]


def test_suffixes_and_failures(server: DnsServer) -> None:
    """Exact beats suffix; what is unknown does not exist; SERVFAIL and silence are possible."""
    server.answer("*.run.test", "10.0.0.1")
    server.answer("a.run.test", "10.0.0.2")
    server.fail("broken.test")
    server.silent("mute.test")
    assert addresses(ask(server, "x.y.run.test")) == ["10.0.0.1"]
    assert addresses(ask(server, "a.run.test")) == ["10.0.0.2"]
    assert ask(server, "run.test").rcode() == dns.rcode.NXDOMAIN
    assert ask(server, "broken.test").rcode() == dns.rcode.SERVFAIL
    with pytest.raises(dns.exception.Timeout):
        ask(server, "mute.test", wait=0.05)


def test_truncated_answer_is_whole_by_tcp(server: DnsServer) -> None:
    """The TC bit sends the client to TCP on the same port."""
    server.truncate("long.test", "10.0.0.1")
    assert ask(server, "long.test").flags & dns.flags.TC
    query = dns.message.make_query("long.test", "A")
    answer = dns.query.tcp(query, server.host, port=server.port, timeout=2)
    assert addresses(answer) == ["10.0.0.1"]
