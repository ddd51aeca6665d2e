"""The project is asked for when a short name needs it, and seldom again."""

from __future__ import annotations

import asyncio

from ext_authz.check_service import CheckService
from ext_authz.discovery import RETRY_SECONDS, ProjectFinder
from ext_authz.errors import SourceError
from ext_authz.policy import Policy
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rules import Rule
from ext_authz.short_names import Project
from tests.unit.fakes import FakeClock
from tests.unit.stage import Stage, answer, headers_of, request, route_of


class Lookup:
    """A metadata server that counts; `error` while it is not there."""

    def __init__(self, error: SourceError | None = None) -> None:
        self.error = error
        self.calls = 0

    def __call__(self) -> tuple[str, str]:
        self.calls += 1
        if self.error:
            raise self.error
        return "123456", "europe-west1"


def absent() -> SourceError:
    return SourceError("no answer", code="source_unreachable")


async def test_many_who_ask_at_once_cost_one_look_up_and_the_answer_stays() -> None:
    lookup, clock = Lookup(), FakeClock()
    finder = ProjectFinder(lookup, clock)
    found = await asyncio.gather(*(finder.find() for _ in range(20)))
    clock.advance(1e6)
    assert {*found, await finder.find()} == {Project("123456", "europe-west1")}
    assert lookup.calls == 1


async def test_without_a_metadata_server_it_is_asked_once_per_half_minute() -> None:
    lookup, clock = Lookup(absent()), FakeClock()
    finder = ProjectFinder(lookup, clock)
    assert [await finder.find() for _ in range(5)] == [None] * 5
    clock.advance(RETRY_SECONDS - 1)
    assert await finder.find() is None
    assert lookup.calls == 1
    clock.advance(2)
    lookup.error = None
    assert await finder.find() is not None
    assert lookup.calls == 2


class Service:
    """A Check service that discovers with this look-up."""

    def __init__(self, lookup: Lookup) -> None:
        self.stage = Stage()
        self.policy = Policy((Rule("*.run.app", "default"),), discovery=True)
        self.finder = ProjectFinder(lookup, self.stage.world.clock)
        self.service = CheckService(
            self.policy,
            self.stage.world.cache,
            lambda outcome, rule: None,
            project=self.finder.find,
            clock=self.stage.world.clock,
        )

    async def check(self, host: str) -> pb.CheckResponse:
        return pb.CheckResponse.FromString(await answer(self.service, request(host)))


async def test_a_request_to_a_short_name_goes_to_the_services_url() -> None:
    lookup = Lookup()
    service = Service(lookup)
    for _ in range(2):
        headers = headers_of(await service.check("web"))
        assert headers[":authority"] == "web-123456.europe-west1.run.app"
        assert headers["authorization"].startswith("Bearer ")
    assert lookup.calls == 1


async def test_hosts_with_dots_never_cause_a_look_up() -> None:
    lookup = Lookup()
    service = Service(lookup)
    for host in ("svc.run.app", "example.com", "a.b", "10.0.0.1"):
        await service.check(host)
    assert lookup.calls == 0


async def test_where_no_project_is_known_a_short_name_passes_untouched() -> None:
    service = Service(Lookup(absent()))
    answer = await service.check("web")
    assert route_of(answer) == "plain"
    assert headers_of(answer) == {":authority": "web"}


async def test_a_metadata_server_that_comes_late_is_noticed() -> None:
    lookup = Lookup(absent())
    service = Service(lookup)
    assert route_of(await service.check("web")) == "plain"
    lookup.error = None
    service.stage.world.clock.advance(RETRY_SECONDS + 1)
    assert route_of(await service.check("web")) == "tls"


async def test_a_reload_does_not_forget_the_project() -> None:
    lookup = Lookup()
    service = Service(lookup)
    await service.check("web")
    service.service.use(service.policy, worker_cache=False)
    assert route_of(await service.check("other")) == "tls"
    assert lookup.calls == 1
