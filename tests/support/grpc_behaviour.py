"""What every gRPC client must see through the sidecar; each client's tests inherit it.

A subclass gives the fixture `caller`, a function that makes one call by one way in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ext_authz.standins.grpc_service import GrpcService
from tests.support.grpc_calls import (
    AUDIENCE,
    WAYS,
    Caller,
    GrpcCall,
    Way,
    authority_of,
    config_for,
    go_contact,
    way_in,
)
from tests.support.polling import elapsed
from tests.support.sidecar import Sidecar
from tests.support.world import World

OK, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE = 0, 4, 12, 14
START_SECONDS = 10.0  # of a client's process, on a busy machine
ADDED_BY_PROXIES = ("x-envoy-", "x-forwarded-", "x-request-id", "via", "x-idtoken")


class GrpcBehaviour:
    """The tests; pytest collects them in the subclasses only."""

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, world: World) -> Iterator[GrpcService]:
        """Serve the private service."""
        with go_contact(world) as found:
            yield found

    @pytest.fixture(scope="class")
    @classmethod
    def through(
        cls, world: World, service: GrpcService, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Sidecar]:
        """Run a sidecar with the service behind its reverse proxy."""
        upstream = f"--upstream=https://{authority_of(service)}"
        directory = tmp_path_factory.mktemp("grpc")
        with world.sidecar(directory, upstream, config=config_for(world, service)) as found:
            yield found

    @pytest.fixture(params=WAYS)
    def way(self, request: pytest.FixtureRequest, through: Sidecar, service: GrpcService) -> Way:
        """Return each way in."""
        return way_in(request.param, through, authority_of(service))

    @pytest.mark.parametrize(
        ("method", "sent", "expected"),
        [
            ("Unary", ("one",), ("one",)),
            ("ServerStream", ("one",), ("one", "one", "one")),
            ("ClientStream", ("one", "two", "three"), ("onetwothree",)),
            ("Bidi", ("one", "two", "three"), ("one", "two", "three")),
        ],
    )
    def test_every_kind_of_call_is_answered(
        self,
        caller: Caller,
        way: Way,
        service: GrpcService,
        method: str,
        sent: tuple[str, ...],
        expected: tuple[str, ...],
    ) -> None:
        """With a verified token for the service's audience."""
        answer = caller(way, GrpcCall(method, sent))
        assert (answer.code, answer.messages) == (OK, expected), answer.details
        claims = service.calls[-1].claims
        assert claims is not None
        assert claims["aud"] == AUDIENCE

    def test_metadata_and_trailers_are_intact(
        self, caller: Caller, way: Way, service: GrpcService, world: World
    ) -> None:
        """Both ways; the service sees what the client sent and the token, and nothing else."""
        sent = (("x-echo-one", "1"), ("x-twice", "a"), ("x-twice", "b"))
        answer = caller(way, GrpcCall(metadata=sent))
        assert answer.headers["x-echo-one"] == "1"
        assert answer.trailers["caller-email"] == world.google.metadata.email
        received = service.calls[-1].metadata
        joined = ",".join(str(value) for name, value in received if name == "x-twice")
        assert joined.replace(" ", "") == "a,b"
        names = [name for name, _ in received]
        assert names.count("authorization") == 1
        assert not [name for name in names if name.startswith(ADDED_BY_PROXIES)]

    def test_status_of_the_service_reaches_the_client(self, caller: Caller, way: Way) -> None:
        """An answer that is nothing but trailers."""
        assert caller(way, GrpcCall("NoSuchMethod")).code == UNIMPLEMENTED

    def test_deadline_reaches_the_service(self, caller: Caller, way: Way) -> None:
        """As the client set it."""
        answer = caller(way, GrpcCall("Left", service="test.Clock", deadline_seconds=9.0))
        assert answer.code == OK, answer.details
        # gRPC rounds the timeout that it sends up, so what is left on arrival may be a little more.
        assert 8.0 < float(answer.messages[0]) < 9.5

    def test_deadline_ends_the_call(self, caller: Caller, way: Way) -> None:
        """In time, and not as some other failure."""
        started = time.monotonic()
        answer = caller(way, GrpcCall("Hold", service="test.Clock", deadline_seconds=1.0))
        assert answer.code == DEADLINE_EXCEEDED, answer.details
        assert elapsed(started) < 1.0 + START_SECONDS

    @pytest.fixture(scope="class")
    @classmethod
    def penniless(
        cls, world: World, service: GrpcService, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Sidecar]:
        """Run a sidecar that has no credential."""
        upstream = f"--upstream=https://{authority_of(service)}"
        config = config_for(world, service, "credentials: {default: none}")
        directory = tmp_path_factory.mktemp("penniless")
        with world.sidecar(directory, upstream, config=config) as found:
            yield found

    @pytest.mark.parametrize("name", WAYS)
    def test_call_without_a_token_is_unavailable_and_says_why(
        self, caller: Caller, penniless: Sidecar, service: GrpcService, name: str
    ) -> None:
        """UNAVAILABLE, the reason in grpc-message; the service is never asked."""
        before = len(service.calls)
        answer = caller(way_in(name, penniless, authority_of(service)), GrpcCall())
        assert answer.code == UNAVAILABLE
        assert answer.details.startswith("token_unavailable: ")
        assert len(service.calls) == before
