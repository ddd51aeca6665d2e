"""Prewarming before readiness, and lazy mode, which asks for nothing that no request needs."""

from __future__ import annotations

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from tests.conftest import StartSidecar
from tests.support.ask import ask
from tests.support.polling import until
from tests.support.world import World

ABSENT = "absent@local-project.iam.gserviceaccount.com"


def audiences(world: World) -> list[str]:
    """What the metadata server was asked for, so far."""
    return [one.query.get("audience", "") for one in world.google.requests_of(IDENTITY)]


def hosts(world: World, count: int) -> list[str]:
    return [world.cold() for _ in range(count)]


def audience_of(authority: str) -> str:
    return f"https://{authority.partition(':')[0]}"


def test_tokens_of_exact_hosts_are_there_before_readiness(
    world: World, start_sidecar: StartSidecar
) -> None:
    one, two = hosts(world, 2)
    rules = [f"{{match: '{one}'}}", f"{{match: '{two}'}}", "{match: '*.run.app'}"]
    config = world.config("tokens: {prewarm: true}", rules=rules)
    sidecar = start_sidecar(config=config)
    assert sorted(audiences(world)[-2:]) == sorted(map(audience_of, (one, two)))
    assert "failed" not in sidecar.get_status("/readyz")[1]
    before = len(audiences(world))
    assert [ask(sidecar, f"http://{host}/").status for host in (one, two)] == [200, 200]
    assert len(audiences(world)) == before


def test_readiness_waits_for_a_slow_fetch(world: World, start_sidecar: StartSidecar) -> None:
    """A request that comes as soon as it is ready waits for nobody."""
    (host,) = hosts(world, 1)
    world.google.fail(IDENTITY, Fault.stall(1.0), times=1)
    config = world.config("tokens: {prewarm: true}", rules=[f"{{match: '{host}'}}"])
    sidecar = start_sidecar(config=config, command="serve")
    sample = f'idtoken_sidecar_token_expires_in_seconds{{audience="{audience_of(host)}"'
    assert sidecar.metric(f'{sample},credential="default"}}') > 0


def test_the_upstream_of_the_reverse_proxy_is_prewarmed(
    world: World, start_sidecar: StartSidecar
) -> None:
    (host,) = hosts(world, 1)
    config = world.config("tokens: {prewarm: true}", rules=["{match: '*.run.app'}"])
    start_sidecar(f"--upstream=https://{host}", config=config)
    assert audience_of(host) in audiences(world)


def test_only_the_hosts_that_are_listed_are_prewarmed(
    world: World, start_sidecar: StartSidecar
) -> None:
    one, two = hosts(world, 2)
    rules = [f"{{match: '{one}'}}", f"{{match: '{two}'}}"]
    start_sidecar(
        config=world.config(f"tokens: {{prewarm: ['{two}']}}", rules=rules), command="serve"
    )
    assert audience_of(two) in audiences(world)
    assert audience_of(one) not in audiences(world)


def test_a_prewarm_that_fails_is_named_and_stops_neither_the_others_nor_the_start(
    world: World, start_sidecar: StartSidecar
) -> None:
    good, bad = hosts(world, 2)
    impersonation = f"{{impersonate: {ABSENT}, iam_endpoint: '{world.google.public_url}'}}"
    rules = [f"{{match: '{good}'}}", f"{{match: '{bad}', credential: absent}}"]
    more = ("credentials:", f"  absent: {impersonation}", "tokens: {prewarm: true}")
    sidecar = start_sidecar(config=world.config(*more, rules=rules))
    status, text = sidecar.get_status("/readyz")
    assert status == 200
    (line,) = [line for line in text.splitlines() if "prewarm failed" in line]
    assert bad in line
    assert "absent" in line
    assert good not in line
    assert audience_of(good) in audiences(world)
    assert ask(sidecar, f"http://{good}/").status == 200
    assert ask(sidecar, f"http://{bad}/").status == 503


def test_a_host_that_failed_is_not_named_any_more_once_its_token_came(
    world: World, start_sidecar: StartSidecar
) -> None:
    (host,) = hosts(world, 1)
    world.google.fail(IDENTITY, Fault.error(500))
    config = world.config("tokens: {prewarm: true}", rules=[f"{{match: '{host}'}}"])
    sidecar = start_sidecar(config=config)
    assert host in sidecar.get_status("/readyz")[1]
    world.google.heal()
    until(lambda: ask(sidecar, f"http://{host}/").status == 200, 20, "its token is there")
    assert host not in sidecar.get_status("/readyz")[1]


def test_lazy_mode_makes_no_fetch_that_no_request_asked_for(
    world: World, start_sidecar: StartSidecar
) -> None:
    """With tokens that may be sent for two seconds, `ahead` fetches again and again."""
    lazy, ahead = hosts(world, 2)
    short = Fault.claims(lambda claims: claims | {"exp": claims["iat"] + 62})
    world.google.fail(IDENTITY, short)
    sidecars = {}
    for host, word in ((lazy, "lazy"), (ahead, "ahead")):
        config = world.config(f"tokens: {{refresh: {word}}}", rules=[f"{{match: '{host}'}}"])
        sidecars[host] = start_sidecar("--no-credential-cache", config=config)
        assert ask(sidecars[host], f"http://{host}/").status == 200

    def fetched(audience: str) -> int:
        return audiences(world).count(audience)

    until(lambda: fetched(audience_of(ahead)) > 2, 40, "the token was refreshed ahead")
    assert fetched(audience_of(lazy)) == 1
    assert ask(sidecars[lazy], f"http://{lazy}/").status == 200
    assert fetched(audience_of(lazy)) == 2
