"""A scripted DNS server on loopback, UDP and TCP on one port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.loop import LoopServer

PORT_ATTEMPTS = 20


@dataclass
class _Script:
    """What one name answers. `rounds` are address lists, one per query; the last one stays."""

    rounds: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    ttl_seconds: int = 0
    silent: bool = False
    truncate: bool = False
    asked: dict[str, int] = field(default_factory=dict)

    def next_round(self, kind: str) -> tuple[str, ...]:
        """The addresses for this query; A and AAAA advance each on its own."""
        number = self.asked.get(kind, 0)
        self.asked[kind] = number + 1
        return self.rounds[min(number, len(self.rounds) - 1)]


class DnsServer(LoopServer):
    """Answers A and AAAA as scripted; a name without a script does not exist.

    Names may be `*.suffix`; an exact name wins, then the longest suffix.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self._scripts: dict[str, _Script] = {}
        self._lock = threading.Lock()
        self._queries: list[tuple[str, str]] = []
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def queries(self) -> list[tuple[str, str]]:
        """(name, type) of every query so far, names in lower case without the last dot."""
        with self._lock:
            return list(self._queries)

    def answer(self, name: str, *addresses: str, ttl_seconds: int = 0) -> None:
        """Give these IPv4 and IPv6 addresses; a type without any gets an empty answer."""
        self._set(name, _Script([addresses], ttl_seconds=ttl_seconds))

    def answer_in_turn(self, name: str, *rounds: Sequence[str], ttl_seconds: int = 0) -> None:
        """Give another address list at each query (rebinding); the last one stays."""
        self._set(name, _Script([tuple(one) for one in rounds], ttl_seconds=ttl_seconds))

    def not_found(self, name: str) -> None:
        """Answer NXDOMAIN."""
        self._set(name, _Script(rcode=dns.rcode.NXDOMAIN))

    def fail(self, name: str) -> None:
        """Answer SERVFAIL."""
        self._set(name, _Script(rcode=dns.rcode.SERVFAIL))

    def silent(self, name: str) -> None:
        """Never answer."""
        self._set(name, _Script(silent=True))

    def truncate(self, name: str, *addresses: str) -> None:
        """Answer UDP with the TC bit and nothing else, so that the client comes by TCP."""
        self._set(name, _Script([addresses], truncate=True))

    def _set(self, name: str, script: _Script) -> None:
        with self._lock:
            self._scripts[name.lower().rstrip(".")] = script

    def _find(self, name: str) -> _Script:
        if name in self._scripts:
            return self._scripts[name]
        rest = name
        while rest := rest.partition(".")[2]:
            if (script := self._scripts.get(f"*.{rest}")) is not None:
                return script
        return _Script(rcode=dns.rcode.NXDOMAIN)

    def respond(self, wire: bytes, *, udp: bool) -> bytes | None:
        """The answer to one query message; None for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text().lower().rstrip(".")
        kind = dns.rdatatype.to_text(question.rdtype)
        with self._lock:
            self._queries.append((name, kind))
            script = self._find(name)
            if script.silent:
                return None
            addresses = [one for one in script.next_round(kind) if _kind_of(one) == kind]
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(script.rcode)
        if script.truncate and udp:
            response.flags |= dns.flags.TC
            addresses = []
        for one in addresses:  # a set each: dnspython shuffles within a set, scripts have an order
            record = dns.rrset.from_text(question.name, script.ttl_seconds, "IN", kind, one)
            response.answer.append(record)
        return response.to_wire()

    async def _open(self) -> int:
        for _ in range(PORT_ATTEMPTS):
            self._tcp = await asyncio.start_server(self._serve_tcp, self.host, 0)
            port: int = self._tcp.sockets[0].getsockname()[1]
            try:
                await self._open_udp(port)
            except OSError:  # the port is free for TCP only: take another
                self._tcp.close()
                continue
            return port
        raise OSError(f"no port free for both UDP and TCP in {PORT_ATTEMPTS} attempts")

    async def _open_udp(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _UdpProtocol(self), local_addr=(self.host, port), family=family
        )

    async def _close(self) -> None:
        self._tcp.close()
        self._udp.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    (length,) = struct.unpack(">H", await reader.readexactly(2))
                    answer = self.respond(await reader.readexactly(length), udp=False)
                    if answer is not None:
                        writer.write(struct.pack(">H", len(answer)) + answer)
                        await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class _UdpProtocol(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := self._server.respond(data, udp=True)) is not None:
            self._transport.sendto(answer, addr)


def _kind_of(address: str) -> str:
    return "AAAA" if ":" in address else "A"
