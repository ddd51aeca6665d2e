"""The secret discovery stream of intercept_https: certificates for our names, and for no others."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import replace

import pytest

from ext_authz.local_ca import Authority, Leaf, init
from ext_authz.policy import Policy
from ext_authz.rules import Rule
from ext_authz.short_names import Project
from tests.unit.fakes import settle
from tests.unit.secret_stream import (
    POLICY,
    DeltaDiscoveryResponse,
    Status,
    Stream,
    dns_names,
    interception,
    leaf_of,
    names_of,
)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(*init(tmp_path_factory.mktemp("ca"), POLICY.rules))


@pytest.mark.parametrize("name", ["svc.run.app", "a.b.run.app", "odd.example.com"])
async def test_a_name_with_a_rule_gets_a_certificate(authority: Authority, name: str) -> None:
    stream = Stream(authority)
    answer = await stream.ask(name)
    secret, certificate = leaf_of(answer)
    assert (secret, dns_names(certificate)) == (name, [name])
    assert answer.type_url == interception.SECRET_TYPE
    assert answer.nonce
    assert answer.removed_resources == []


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "run.app",
        "evilrun.app",
        "*.run.app",
        "",
        "a b.run.app",
        "é.run.app",
        "svc.run.app:443",
        "localhost",
        "169.254.169.254",
        "metadata.google.internal",
        "x" * 10_000,
    ],
)
async def test_any_other_name_is_answered_as_removed_so_that_the_handshake_fails_at_once(
    authority: Authority, name: str
) -> None:
    answer = await Stream(authority).ask(name)
    assert answer.resources == []
    assert list(answer.removed_resources) == [name]


async def test_one_request_may_name_several(authority: Authority) -> None:
    answer = await Stream(authority).ask("a.run.app", "example.com", "b.run.app")
    assert names_of(answer) == ["a.run.app", "b.run.app"]
    assert list(answer.removed_resources) == ["example.com"]


async def test_the_name_is_echoed_as_asked_and_its_certificate_is_in_lower_case(
    authority: Authority,
) -> None:
    stream = Stream(authority)
    secret, certificate = leaf_of(await stream.ask("Svc.RUN.app"))
    assert secret == "Svc.RUN.app"
    assert dns_names(certificate) == ["svc.run.app"]
    assert leaf_of(await stream.ask("svc.run.app"))[1] == certificate


async def test_an_acknowledgement_and_an_unsubscription_get_no_answer(
    authority: Authority,
) -> None:
    stream = Stream(authority)
    answer = await stream.ask("svc.run.app")
    stream.tell(response_nonce=answer.nonce)
    stream.tell(resource_names_unsubscribe=["svc.run.app", "never.run.app"])
    assert await stream.rest() == []


async def test_each_answer_has_a_nonce_of_its_own(authority: Authority) -> None:
    stream = Stream(authority)
    nonces = [(await stream.ask(f"n{number}.run.app")).nonce for number in range(3)]
    assert len(set(nonces)) == 3


async def test_the_oldest_name_is_taken_back_when_there_are_too_many(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interception, "MAX_NAMES", 3)
    stream = Stream(authority)
    for name in ("a", "b", "c"):
        assert list((await stream.ask(f"{name}.run.app")).removed_resources) == []
    await stream.ask("a.run.app")  # asked for again: now `b` is the oldest
    answer = await stream.ask("d.run.app")
    assert (names_of(answer), list(answer.removed_resources)) == (["d.run.app"], ["b.run.app"])
    stream.tell(resource_names_unsubscribe=["a.run.app"])
    answer = await stream.ask("e.run.app")
    assert list(answer.removed_resources) == []


async def test_a_reconnected_envoy_gets_the_same_certificate(authority: Authority) -> None:
    stream = Stream(authority)
    _, before = leaf_of(await stream.ask("svc.run.app"))
    assert await stream.rest() == []
    stream.connect()
    _, after = leaf_of(await stream.ask("svc.run.app"))
    assert before == after


async def test_two_envoys_do_not_disturb_each_other(authority: Authority) -> None:
    stream = Stream(authority)
    await stream.ask("a.run.app")
    first = stream.answers
    stream.connect()
    await stream.ask("a.run.app")
    assert await stream.rest() == []
    await first.aclose()


async def test_a_certificate_that_envoy_refuses_is_logged(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    from ext_authz import log

    log.set_up("info")
    stream = Stream(authority)
    answer = await stream.ask("svc.run.app")
    error = Status(code=13, message="Failed to load private key -----BEGIN")
    stream.tell(response_nonce=answer.nonce, error_detail=error)
    assert await stream.rest() == []
    written = capsys.readouterr().err
    assert "certificate_refused" in written
    assert "BEGIN" not in written


async def test_a_changed_configuration_counts_for_the_next_name(authority: Authority) -> None:
    stream = Stream(authority)
    assert names_of(await stream.ask("svc.run.app"))
    stream.policy = Policy((Rule("new.run.app", "default"),))
    assert names_of(await stream.ask("svc.run.app")) == []
    assert names_of(await stream.ask("new.run.app")) == ["new.run.app"]


async def test_a_name_that_only_passes_or_is_kept_is_judged_as_a_request_would_be(
    authority: Authority,
) -> None:
    keep = Rule("keep.run.app", "default", keep_existing=True)
    stream = Stream(authority, replace(POLICY, rules=(keep,), pass_others=True))
    assert names_of(await stream.ask("keep.run.app")) == ["keep.run.app"]
    assert names_of(await stream.ask("pass.run.app")) == []


async def test_a_short_name_is_never_looked_up_by_a_handshake(authority: Authority) -> None:
    stream = Stream(authority, replace(POLICY, discovery=True))
    assert names_of(await stream.ask("web")) == []
    known = replace(POLICY, discovery=True, project=Project("1", "europe-west1"))
    assert isinstance(await Stream(authority, known).ask("web"), DeltaDiscoveryResponse)


class ShortLived(Authority):
    """Mints leaves that want to be renewed at once."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def mint(self, name: str) -> Leaf:
        return replace(self._authority.mint(name), renew_at=datetime.datetime.now(datetime.UTC))


async def test_a_certificate_is_replaced_before_it_expires(authority: Authority) -> None:
    """Envoy keeps what it subscribed to and never asks again."""
    stream = Stream(ShortLived(authority), pause_seconds=0.001)
    _, first = leaf_of(await stream.ask("svc.run.app"))
    answer = await stream.next()
    name, second = leaf_of(answer)
    assert name == "svc.run.app"
    assert second.serial_number != first.serial_number
    assert list(answer.removed_resources) == []


async def test_an_envoy_that_hangs_up_leaves_nothing_behind(authority: Authority) -> None:
    before = asyncio.all_tasks()
    stream = Stream(authority)
    await stream.ask("svc.run.app")
    waiting = asyncio.create_task(stream.next())
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert asyncio.all_tasks() == before


async def test_what_says_nothing_is_not_answered(authority: Authority) -> None:
    stream = Stream(authority)
    stream.requests.put_nowait(b"\xff\xff\xff")
    assert names_of(await stream.ask("svc.run.app")) == ["svc.run.app"]
