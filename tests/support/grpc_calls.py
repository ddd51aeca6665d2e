"""One gRPC call by any client through any of the three ways in, in a form that tests compare."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from ext_authz.standins.grpc_service import SERVICE, GrpcService
from tests.support.sidecar import Sidecar
from tests.support.world import World

CONTACT = "go-contact.localhost"  # the private gRPC service
AUDIENCE = f"https://{CONTACT}"
WAYS = ("forward", "reverse", "http_proxy")
HOLD_SECONDS = 30.0
KINDS = {"Unary": "unary", "ServerStream": "server", "ClientStream": "client", "Bidi": "bidi"}


class Way(NamedTuple):
    """Where a plaintext channel goes: what it dials, the authority it names, the proxy it uses."""

    target: str
    authority: str | None = None
    proxy: str | None = None


@dataclass(frozen=True)
class GrpcCall:
    """A call of one method of the stand-in; messages are text."""

    method: str = "Unary"
    messages: tuple[str, ...] = ("hello",)
    metadata: tuple[tuple[str, str], ...] = ()
    deadline_seconds: float = 20.0
    service: str = SERVICE

    @property
    def path(self) -> str:
        """What gRPC calls the full method name."""
        return f"/{self.service}/{self.method}"

    @property
    def kind(self) -> str:
        """Which side streams: unary, server, client or bidi."""
        return KINDS.get(self.method, "unary")


@dataclass(frozen=True)
class GrpcAnswer:
    """What the client was told; of metadata given twice the first value."""

    code: int
    details: str = ""
    messages: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    trailers: Mapping[str, str] = field(default_factory=dict)


Caller = Callable[[Way, GrpcCall], GrpcAnswer]


def way_in(name: str, sidecar: Sidecar, authority: str) -> Way:
    """One of `WAYS` through a sidecar whose reverse proxy leads to `authority`."""
    if name == "forward":
        return Way(str(sidecar.addresses["forward"]), authority)
    if name == "reverse":
        return Way(str(sidecar.addresses["reverse"]))
    return Way(authority, proxy=sidecar.proxy_url)


@contextlib.contextmanager
def go_contact(world: World, **more: Any) -> Iterator[GrpcService]:
    """Serve the private gRPC service behind TLS, with `test.Clock` beside its echo."""
    leaf = world.authority.issue(CONTACT, "*.localhost", file_name="go-contact")
    with GrpcService(world.google.issuer, {AUDIENCE}, leaf, handlers=[_clock()], **more) as found:
        yield found


def config_for(world: World, service: GrpcService, *more: str) -> str:
    """The configuration of a sidecar that may call the service."""
    return world.config(*more, rules=[f'{{match: "{CONTACT}:{service.port}"}}'])


def authority_of(service: GrpcService) -> str:
    """`host:port` by which clients name the service."""
    return f"{CONTACT}:{service.port}"


def _clock() -> Any:
    """Left tells the seconds to the deadline; Hold answers only when the call is over."""

    def left(_: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    def hold(_: bytes, context: Any) -> bytes:
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait(HOLD_SECONDS)
        return b""

    methods = {"Left": left, "Hold": hold}
    handlers = {name: grpc.unary_unary_rpc_method_handler(run) for name, run in methods.items()}
    return grpc.method_handlers_generic_handler("test.Clock", handlers)


def open_channel(way: Way) -> grpc.Channel:
    """Open a plaintext grpcio channel."""
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", int(way.proxy is not None))]
    options += [("grpc.default_authority", way.authority)] if way.authority else []
    options += [("grpc.http_proxy", way.proxy)] if way.proxy else []
    return grpc.insecure_channel(way.target, options)


def call_grpcio(way: Way, call: GrpcCall) -> GrpcAnswer:
    """Make the call with grpcio in this process."""
    with open_channel(way) as channel:
        return call_on(channel, call)


def call_on(channel: grpc.Channel, call: GrpcCall) -> GrpcAnswer:
    """Make the call on a grpcio channel, whatever its security."""
    first: Any = call.messages[0].encode()
    many = iter([message.encode() for message in call.messages])
    makers = {
        "unary": (channel.unary_unary, first),
        "server": (channel.unary_stream, first),
        "client": (channel.stream_unary, many),
        "bidi": (channel.stream_stream, many),
    }
    make, request = makers[call.kind]
    known = {"timeout": call.deadline_seconds, "metadata": call.metadata}
    stub: Any = make(call.path)
    streams = call.kind in ("server", "bidi")
    running = stub(request, **known) if streams else stub.future(request, **known)
    messages: list[bytes] = []
    with contextlib.suppress(grpc.RpcError):  # the code tells it
        messages += list(running) if streams else [running.result()]
    return GrpcAnswer(
        running.code().value[0],
        running.details() or "",
        tuple(message.decode() for message in messages),
        _first(running.initial_metadata()),
        _first(running.trailing_metadata()),
    )


def call_program(
    command: list[str], deadline: str, run: Callable[..., Any], way: Way, call: GrpcCall
) -> GrpcAnswer:
    """Make the call with a program that takes the flags of grpc.mjs and goclient.

    `deadline` is the flag for it, with `{ms}` where the milliseconds go.
    """
    flags = deadline.format(ms=int(call.deadline_seconds * 1000)).split()
    flags += ["--target", way.target, "--method", call.path, "--kind", call.kind]
    flags += ["--authority", way.authority] if way.authority else []
    for name, value in call.metadata:
        flags += ["--metadata", f"{name}: {value}"]
    for message in call.messages:
        flags += ["--message", message]
    # grpc-go reads HTTPS_PROXY, grpc-js and grpcio http_proxy (and grpc_proxy).
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")
    environ = dict.fromkeys(names, way.proxy) if way.proxy else {}
    done = run(*command, *flags, environ=environ)
    assert done.returncode == 0, (done.stdout, done.stderr)
    found = json.loads(done.stdout)
    return GrpcAnswer(
        found["code"],
        found["details"],
        tuple(found["messages"]),
        _flat(found["headers"]),
        _flat(found["trailers"]),
    )


def _first(metadata: Any) -> dict[str, str]:
    return {key: str(value) for key, value in reversed(metadata or ())}


def _flat(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    items = (metadata or {}).items()
    return {key: value if isinstance(value, str) else value[0] for key, value in items}
