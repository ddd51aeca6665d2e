"""A token's text is in the upstream request and nowhere else; nor is any key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY, TOKEN
from tests.support.ask import ask, ask_grpc, ask_reverse
from tests.support.polling import until
from tests.support.sidecar import Sidecar, run_command
from tests.support.world import COLD, World

SENTINEL = "sentinel-9f1c7e-secret"
# The app's own secrets pass through; they must not be kept on the way either.
APP = ("Authorization", f"Bearer {SENTINEL}-app")
QUERY = f"?key={SENTINEL}-query"
JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}")
ADMIN = (
    "/config_dump?include_eds",
    "/stats",
    "/stats/prometheus",
    "/clusters?format=json",
    "/listeners",
    "/server_info",
    "/memory",
)
ROBOT = "robot@local-project.iam.gserviceaccount.com"
FAULTS = [
    Fault.garbage(f"{SENTINEL}.body.text"),
    Fault.error(400, body=json.dumps({"error": "bad", "error_description": SENTINEL})),
    Fault.error(500, body=SENTINEL),
    Fault.error(403, body=json.dumps({"error": {"status": "X", "message": SENTINEL}})),
    Fault.redirect(f"http://127.0.0.1:1/{SENTINEL}"),
    Fault.wrong_audience(),
    Fault.expired(),
    Fault.without_expiry(),
    Fault.expiry_as_text(),
    Fault.reset(),
]
ROBOTS = [f"robot{number}.{COLD}" for number in range(len(FAULTS) + 1)]


@dataclass
class Story:
    """What one sidecar has written and shown after everything that can happen has happened."""

    sidecar: Sidecar
    secrets: set[str]
    bodies: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run requests through success and every error path, with three kinds of credential."""
    directory = tmp_path_factory.mktemp("leaks")
    key = world.google.service_account_key(ROBOT)
    (directory / "key.json").write_text(json.dumps(key))
    (directory / "token").write_text(f"{SENTINEL}-static")
    credentials = (
        f"credentials: {{robot: {{service_account_key: {directory / 'key.json'}}}, "
        f"own: {{static_token: {{file: {directory / 'token'}}}}}}}"
    )
    rules = [
        *world.rules(),
        f'{{match: "own.{COLD}:{world.capture.port}", credential: own}}',
        f'{{match: "untrusted.localhost:{world.capture.port}", credential: own}}',
        *(f'{{match: "{host}:{world.service.port}", credential: robot}}' for host in ROBOTS),
    ]
    config = world.config(credentials, rules=rules)
    upstream = f"--upstream=https://{world.service_authority}"
    with world.sidecar(directory / "run", upstream, "--access-log", config=config) as sidecar:
        private = "".join(key["private_key"].splitlines()[1:-1])
        found = Story(sidecar, {SENTINEL, private[:40], private[-40:]})
        _succeed(world, found)
        _fail(world, found)
        found.secrets |= _tokens_seen(world)
        yield found


def _succeed(world: World, story: Story) -> None:
    world.service.guard.audiences |= {f"https://{host}" for host in ROBOTS}
    side = story.sidecar
    for headers in ((), (APP,), (("X-Serverless-Authorization", f"Bearer {SENTINEL}"),)):
        assert ask(side, f"{world.service_url}/{QUERY}", headers=headers).status == 200
        assert ask(side, f"{world.capture_url}/{QUERY}", headers=headers).status == 200
        assert ask_reverse(side, f"/{QUERY}", headers=headers).status == 200
    assert ask(side, f"http://{ROBOTS[0]}:{world.service.port}/{QUERY}").status == 200
    assert ask(side, f"http://own.{COLD}:{world.capture.port}/{QUERY}").status == 200
    ask_grpc(side, world.capture_authority)


def _fail(world: World, story: Story) -> None:
    side = story.sidecar
    for host, fault in zip(ROBOTS[1:], FAULTS, strict=True):
        world.google.fail(IDENTITY, fault)
        world.google.fail(TOKEN, fault)
        for authority in (world.cold(), f"{host}:{world.service.port}"):
            for headers in ((), (APP,)):
                _note(story, ask(side, f"http://{authority}/{QUERY}", headers=headers).body)
            _note(story, bytes(repr(ask_grpc(side, authority)), "utf-8"))
    world.google.heal()
    for authority in ("user@svc.a.run.app", "169.254.169.254", "nobody.invalid", "x.localhost:1"):
        _note(story, ask(side, f"http://{authority}/{QUERY}", headers=(APP,)).body)
    # Not in the certificate: the handshake fails before the token is sent.
    untrusted = f"http://untrusted.localhost:{world.capture.port}/{QUERY}"
    _note(story, ask(side, untrusted, headers=(APP,)).body)
    _note(story, ask(side, f"{world.capture_url}/unauthorized").body)
    for text in (f"credentials: {SENTINEL}", f"a: [{SENTINEL}", f"credentials: {{x: {SENTINEL}}}"):
        refused = side.metric('idtoken_sidecar_config_reloads_total{outcome="refused"}')
        side.reload(text)
        until(
            lambda before=refused: (
                side.metric('idtoken_sidecar_config_reloads_total{outcome="refused"}') > before
            ),
            5,
            "the broken file is refused",
        )


def _note(story: Story, body: bytes) -> None:
    story.bodies.append(body.decode())


def _tokens_seen(world: World) -> set[str]:
    """The text of every token that reached an upstream."""
    seen = [one.header("authorization") or "" for one in world.service.requests]
    seen += [value for one in world.capture.requests for value in one.values("authorization")]
    return {value.removeprefix("Bearer ") for value in seen if "eyJ" in value}


def assert_clean(story: Story, text: str) -> None:
    """No secret, nothing like a JWT and no key is in this text."""
    assert text.strip()
    leaked = [secret for secret in story.secrets if secret in text]
    assert not leaked, f"{len(leaked)} secrets leaked"
    assert not JWT.search(text)
    assert "PRIVATE KEY" not in text


def test_the_story_used_tokens(story: Story) -> None:
    """There was something to leak, by metadata server and by key."""
    assert len(story.secrets) > 5


def test_output_holds_no_secret(story: Story) -> None:
    """Neither stdout with the access log nor stderr at level debug."""
    assert_clean(story, story.sidecar.stdout())
    assert_clean(story, story.sidecar.stderr())
    assert '"method":"GET"' in story.sidecar.stdout()


def test_error_bodies_hold_no_secret(story: Story) -> None:
    """Each names what to do and nothing that was sent."""
    assert len(story.bodies) > 50
    for body in filter(None, story.bodies):
        assert_clean(story, body)


def test_status_pages_hold_no_secret(story: Story) -> None:
    """Metrics, health, readiness."""
    for path in ("/metrics", "/healthz", "/readyz", "/no-such-page"):
        assert_clean(story, story.sidecar.get_status(path)[1])


@pytest.mark.parametrize("path", ADMIN)
def test_admin_pages_hold_no_secret(story: Story, path: str) -> None:
    """What Envoy shows of its configuration and of its traffic."""
    assert_clean(story, story.sidecar.get_admin(path))


@pytest.mark.parametrize("arguments", [("explain",), ("explain", "--json")])
def test_explain_holds_no_secret(world: World, story: Story, arguments: tuple[str, ...]) -> None:
    """It says where a credential is and not what it is."""
    directory = story.sidecar.directory.parent
    config = directory / "explained.yaml"
    config.write_text(
        f"credentials: {{robot: {{service_account_key: {directory / 'key.json'}}}}}\n"
        "destinations: [{match: svc.example, credential: robot}]\n"
    )
    done = run_command(*arguments, f"--config={config}", "http://svc.example/x", home=directory)
    assert done.returncode == 0, done.stderr
    assert_clean(story, done.stdout)
    assert "key.json" in done.stdout


def test_broken_key_files_are_named_and_not_shown(story: Story, tmp_path: Path) -> None:
    """A bad private key, no JSON, a foreign type, an empty file: the path and the kind of fault."""
    key = json.loads((story.sidecar.directory.parent / "key.json").read_text())
    cut = {**key, "private_key": key["private_key"][:300]}
    texts = [json.dumps(cut), f"{SENTINEL} no json", json.dumps({"type": SENTINEL * 4}), ""]
    for number, text in enumerate(texts):
        file = tmp_path / f"key{number}.json"
        file.write_text(text)
        config = tmp_path / "sidecar.yaml"
        config.write_text(f"credentials: {{robot: {{service_account_key: {file}}}}}\n")
        done = run_command("check-config", str(config), home=tmp_path)
        assert done.returncode == 2, done.stderr
        assert str(file) in done.stderr
        assert_clean(story, done.stderr)
