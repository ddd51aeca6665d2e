"""Everything that a request touched: what the policy saw, what was dialled, what arrived where.

Four hosts share one port on four loopback addresses, so that a request which is judged as one host
and dialled as another would arrive somewhere and be seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ext_authz.destination import parse_authority
from ext_authz.envoy_config import EnvoySettings
from ext_authz.errors import BadDestinationError
from ext_authz.standins.verifier import TokenRejectedError, TokenVerifier
from tests.support.capture import CaptureServer
from tests.support.check_relay import CheckRelay, Decided
from tests.support.dns import DnsServer
from tests.support.envoy import Envoy
from tests.support.messages import CapturedRequest, Reply
from tests.support.sidecar import Address
from tests.support.world import World, server_tls

SVC, OTHER, EVIL, STRANGER = "svc.test", "other.test", "evil.test", "stranger.test"
ADDRESSES = {SVC: "127.0.0.2", OTHER: "127.0.0.3", EVIL: "127.0.0.4", STRANGER: "127.0.0.5"}
RULED = (SVC, OTHER)
CREDENTIALS = ("authorization", "x-serverless-authorization", "proxy-authorization")
GREETING = Reply(body=b"hello", close=True)


class SamePortServer(CaptureServer):
    """A recording upstream on a port that is given; 0 chooses one."""

    def __init__(self, host: str, port: int, **more: object) -> None:
        super().__init__(host=host, default=GREETING, scripts={}, **more)  # type: ignore[arg-type]
        self._wanted = port

    async def _open(self) -> int:
        self._server = await asyncio.start_server(
            self._serve, self.host, self._wanted, ssl=self._tls
        )
        if self._tls is not None:
            self._tls.sni_callback = self._note_name
        port: int = self._server.sockets[0].getsockname()[1]
        return port


@dataclass
class Trace:
    """What one exchange left behind."""

    decided: list[Decided]
    arrived: list[tuple[str, CapturedRequest]]
    dialled: set[str]
    queried: set[str]

    @property
    def hosts(self) -> set[str]:
        """Where requests arrived."""
        return {host for host, _ in self.arrived}


@dataclass
class Laboratory:
    """The hosts, the relay, the service and Envoy."""

    port: int
    servers: dict[str, CaptureServer]
    relay: CheckRelay
    dns: DnsServer
    verifier: TokenVerifier
    entries: dict[str, Address] = field(default_factory=dict)

    @contextmanager
    def tracing(self) -> Iterator[Trace]:
        """Give what happens inside the block; it is filled when the block ends."""
        trace = Trace([], [], set(), set())
        decided, queries = len(self.relay.decided), len(self.dns.queries)
        before = {
            host: (len(server.requests), len(server.connections))
            for host, server in self.servers.items()
        }
        yield trace
        trace.decided = self.relay.decided[decided:]
        trace.queried = {name for name, _ in self.dns.queries[queries:]}
        for host, server in self.servers.items():
            requests, connections = before[host]
            trace.arrived += [(host, one) for one in server.requests[requests:]]
            if server.connections[connections:]:
                trace.dialled.add(host)

    def judge(self, trace: Trace) -> None:
        """Assert that whatever arrived is what was decided, there and with that token only."""
        allowed = {host_of(one.authority) for one in self.relay.decided if one.route}
        assert trace.queried <= allowed, trace
        assert trace.dialled <= {_address_of(host) for host in allowed}, trace
        unused = [one for one in trace.decided if one.route in ("tls", "plain")]
        for host, request in trace.arrived:
            mine = next((one for one in unused if is_of(one, request)), None)
            assert mine is not None, (host, request, trace.decided)
            unused.remove(mine)
            self._judge_one(host, request, mine)

    def judge_tokens(self, trace: Trace) -> None:
        """Assert only that each token arrived at its own host; for what was not asked each time."""
        for host, request in trace.arrived:
            own = [f"https://{host}"] if host in RULED else []
            assert self.audiences(request) == own, request
            assert _address_of(host_of(request.authority or "")) == host, request

    def _judge_one(self, host: str, request: CapturedRequest, decided: Decided) -> None:
        named = host_of(decided.authority)
        assert host == _address_of(named), (decided, request)
        assert host_of(request.authority or "") == named, (decided, request)
        assert len(request.values("host")) + len(request.values(":authority")) == 1, request
        assert request.connection.tls == (decided.route == "tls"), (decided, request)
        audiences = self.audiences(request)
        if decided.route == "tls":
            assert request.connection.sni == named, (decided, request)
            assert audiences == [f"https://{named}"], (decided, request)
        else:
            assert audiences == [], (decided, request)

    def audiences(self, request: CapturedRequest) -> list[str]:
        """The audience of every token of ours that a request carries."""
        found = []
        for name in CREDENTIALS:
            for value in request.values(name):
                with suppress(TokenRejectedError):
                    claims = self.verifier.verify_signature(value.rpartition(" ")[2])
                    found.append(str(claims["aud"]))
        return found


def host_of(authority: str) -> str:
    """The host that an authority names; empty if it names none."""
    try:
        return parse_authority(authority).host
    except BadDestinationError:
        return ""


def _address_of(host: str) -> str:
    """Whose server a name leads to: names without one of their own lead to the stranger."""
    return host if host in ADDRESSES else STRANGER


def is_of(decided: Decided, request: CapturedRequest) -> bool:
    """Whether a decision was about this request."""
    return (decided.method, decided.path) == (request.method, request.target)


@contextmanager
def laboratory(world: World, directory: Path, *flags: str) -> Iterator[Laboratory]:
    """Run all of it; the service with `flags`."""
    with ExitStack() as stack:
        port, servers = 0, dict[str, CaptureServer]()
        dns = stack.enter_context(DnsServer())
        leaf = world.authority.issue("*.test", "*.svc.test", file_name="confusion")
        for host, address in ADDRESSES.items():
            tls = server_tls(leaf) if host in RULED else None
            server = stack.enter_context(SamePortServer(address, port, tls=tls))
            servers[host], port = server, server.port
            dns.answer(host, address)
        dns.answer("*.test", ADDRESSES[STRANGER])
        config = world.config(rules=[f'{{match: "{host}:{port}"}}' for host in RULED])
        upstream = f"--upstream=https://{SVC}:{port}"
        flags = (upstream, *flags)
        service = world.sidecar(directory, *flags, config=config, command="serve")
        stack.enter_context(service)
        relay = stack.enter_context(CheckRelay(service.ext_authz))
        verifier = TokenVerifier(world.google.issuer)
        made = Laboratory(port, servers, relay, dns, verifier)
        settings = EnvoySettings(
            forward="127.0.0.1:0",
            reverse="127.0.0.1:0",
            admin="127.0.0.1:0",
            ext_authz=relay.target,
            ca_file=str(world.authority.certificate),
            allow_loopback=True,
            dns_resolvers=(dns.authority,),
        )
        envoy = stack.enter_context(Envoy(directory / "envoy", settings))
        made.entries = _listeners(envoy, ("forward", "reverse"))
        yield made


def _listeners(envoy: Envoy, names: Sequence[str]) -> dict[str, Address]:
    listed = json.loads(envoy.get_admin("/listeners?format=json"))["listener_statuses"]
    found: dict[str, Address] = {}
    for listener in listed:
        if listener["name"] in names:
            address = listener["local_address"]["socket_address"]
            found[listener["name"]] = (str(address["address"]), int(address["port_value"]))
    return found
