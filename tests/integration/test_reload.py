"""A changed configuration takes effect without a restart; a broken one changes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import ask
from tests.support.polling import until
from tests.support.sidecar import Sidecar
from tests.support.world import World

SEEN_SECONDS = 5.0  # the file is looked at once a second
CACHE_SECONDS = 11.0  # Envoy's workers repeat an answer for ten seconds at most
NO_CACHE = "--no-credential-cache"
TOKEN = "own-token-of-the-test"
BROKEN = {
    "syntax": "destinations: [",
    "unknown key": "destinatoins: []\n",
    "wrong type": "destinations: 7\n",
    "no such credential": 'destinations: [{match: "*.run.app", credential: nobody}]\n',
    "two rules with one match": 'destinations: [{match: a.example}, {match: "A.example:443"}]\n',
    "no UTF-8": "\udcff\udcfe",
    "cut in the middle": 'destinations:\n  - match: "*.run',
}


@pytest.fixture(scope="module")
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Run one sidecar whose file the tests of this module change."""
    with world.sidecar(tmp_path_factory.mktemp("reloaded"), NO_CACHE) as found:
        yield found


@pytest.fixture
def own(world: World, shared: Sidecar) -> Sidecar:
    """Return it with the usual configuration in effect and nothing counted wrongly."""
    before = reloads(shared, "ok")
    shared.reload(world.config())
    shared.process.send_signal(signal.SIGHUP)  # sooner than the next look at the file
    until(lambda: reloads(shared, "ok") > before, SEEN_SECONDS, "the good file is used")
    return shared


def token_seen(world: World, own: Sidecar) -> str:
    """What the upstream gets as credential just now."""
    world.capture.clear()
    assert ask(own, f"{world.capture_url}/").status == 200
    return world.capture.wait_for().values("authorization")[0]


def without_service(world: World) -> str:
    """A configuration in which the private service has no rule and other hosts are refused."""
    rules = [f'{{match: "{world.capture_authority}"}}']
    return world.config("other_destinations: deny", rules=rules)


def reloads(own: Sidecar, outcome: str) -> float:
    """How many reloads of this outcome are counted."""
    return own.metric(f'idtoken_sidecar_config_reloads_total{{outcome="{outcome}"}}')


def test_changed_file_takes_effect(world: World, own: Sidecar) -> None:
    """Rules go and come back; the process stays."""
    assert ask(own, world.service_url).status == 200
    own.reload(without_service(world))
    until(lambda: ask(own, world.service_url).status == 403, SEEN_SECONDS, "the rule is gone")
    own.reload(world.config())
    until(lambda: ask(own, world.service_url).status == 200, SEEN_SECONDS, "the rule is back")
    assert own.process.poll() is None


def test_change_takes_effect_within_the_life_of_cached_answers(
    world: World, start_sidecar: StartSidecar
) -> None:
    """Requests all the while do not keep an old answer alive."""
    own = start_sidecar()
    assert ask(own, world.service_url).status == 200
    own.reload(without_service(world))
    until(
        lambda: ask(own, world.service_url).status == 403,
        SEEN_SECONDS + CACHE_SECONDS,
        "the rule is gone",
    )


def test_sighup_takes_effect_at_once(world: World, own: Sidecar) -> None:
    """Without waiting for the next look at the file."""
    own.config.write_text(without_service(world))
    own.process.send_signal(signal.SIGHUP)
    until(lambda: ask(own, world.service_url).status == 403, 1.0, "the rule is gone")


def test_sighup_without_a_change_is_harmless(world: World, own: Sidecar) -> None:
    """Held tokens stay: Google is not asked again."""
    held, before = token_seen(world, own), reloads(own, "ok")
    own.process.send_signal(signal.SIGHUP)
    until(lambda: reloads(own, "ok") > before, SEEN_SECONDS, "it reloaded")
    assert token_seen(world, own) == held


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_broken_file_keeps_the_old_configuration(world: World, own: Sidecar, text: str) -> None:
    """It is counted and logged with its file; the next good one is used as ever."""
    before, log = reloads(own, "refused"), own.stderr()
    own.config.write_bytes(text.encode("utf-8", "surrogateescape"))
    until(lambda: reloads(own, "refused") > before, SEEN_SECONDS, "it refused the file")
    assert ask(own, world.service_url).status == 200
    lines = map(json.loads, own.stderr().removeprefix(log).splitlines())
    errors = [line for line in lines if line["level"] == "error"]
    assert errors
    assert all(line["file"] == str(own.config) for line in errors)
    assert "the old one stays" in errors[0]["event"]


def test_removed_file_keeps_the_old_configuration(world: World, own: Sidecar) -> None:
    """A file that is away for a moment does not open or close anything."""
    before = reloads(own, "refused")
    own.config.unlink()
    until(lambda: reloads(own, "refused") > before, SEEN_SECONDS, "it refused")
    assert ask(own, world.service_url).status == 200


def test_empty_file_is_no_reload(world: World, own: Sidecar) -> None:
    """A truncated file must not turn into the built-in rules."""
    before = reloads(own, "refused")
    own.config.write_text("")
    until(lambda: reloads(own, "refused") > before, SEEN_SECONDS, "it refused the empty file")
    assert ask(own, world.service_url).status == 200


def test_rotated_token_file_is_used(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """A static token in a file is read again when it changes."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-1\n")
    credential = f"credentials: {{own: {{static_token: {{file: {file}}}}}}}"
    rules = [f'{{match: "{world.capture_authority}", credential: own}}']
    own = start_sidecar(NO_CACHE, config=world.config(credential, rules=rules))
    assert token_seen(world, own) == f"Bearer {TOKEN}-1"
    file.with_suffix(".new").write_text(f"{TOKEN}-2\n")
    file.with_suffix(".new").replace(file)
    until(
        lambda: token_seen(world, own) == f"Bearer {TOKEN}-2", SEEN_SECONDS, "the new one is sent"
    )


def test_rotated_key_file_is_used(
    world: World, start_sidecar: StartSidecar, tmp_path: Path
) -> None:
    """Tokens of the old identity are dropped with it."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(world.google.service_account_key("one@p.iam.gserviceaccount.com")))
    credential = f"credentials: {{default: {{service_account_key: {file}}}}}"
    own = start_sidecar(NO_CACHE, config=world.config(credential))

    def email() -> str:
        return str(json.loads(ask(own, f"{world.service_url}/claims").body)["email"])

    assert email() == "one@p.iam.gserviceaccount.com"
    file.write_text(json.dumps(world.google.service_account_key("two@p.iam.gserviceaccount.com")))
    until(lambda: email() == "two@p.iam.gserviceaccount.com", SEEN_SECONDS, "the key is used")
