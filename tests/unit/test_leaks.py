"""A sentinel secret through every error path: no text, repr, chain, log line or metric shows it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext_authz import log
from ext_authz.check_service import CheckService
from ext_authz.config import Overrides, read_settings
from ext_authz.errors import SidecarError, TokenUnavailableError
from ext_authz.metrics import Metrics
from ext_authz.policy import Policy
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rules import Rule
from ext_authz.settings import EnvSecret, FileSecret
from ext_authz.sources.build import load_all
from ext_authz.sources.credential_files import CredentialFiles
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.google_errors import translated
from ext_authz.sources.secret_files import read_json
from ext_authz.sources.service_account import ServiceAccountSource
from ext_authz.sources.static_token import StaticSource
from ext_authz.sources.worker import SourceRunner
from ext_authz.token_cache import TokenCache
from ext_authz.tokens import Fetched, accept, unverified_claims
from tests.unit.fakes import AUDIENCE, KEY, SENTINEL, FakeClock, jwt
from tests.unit.stage import answer as reply

NOW = FakeClock()()
TOKEN = jwt({"aud": AUDIENCE, "exp": NOW.wall + 3600, "jti": SENTINEL}, signature=SENTINEL)
GUARD = EndpointGuard()
KEY_INFO = {
    "type": "service_account",
    "client_email": "robot@x.iam.gserviceaccount.com",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{SENTINEL}\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def written(tmp_path: Path, content: str) -> FileSecret:
    path = tmp_path / "secret"
    path.write_text(content)
    return FileSecret(path)


def translate() -> None:
    with translated("the server"):
        raise ValueError(SENTINEL)


def configured(tmp_path: Path, text: str, **environ: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    load_all(lambda: read_settings(path, Overrides(), environ))


FAILURES: dict[str, Callable[[Path], object]] = {
    "a token in garbage": lambda _: unverified_claims(f"{TOKEN} {SENTINEL}"),
    "a token whose claims are no JSON": lambda _: unverified_claims(f"a.{SENTINEL}.c"),
    "a token of another audience": lambda _: accept(Fetched(TOKEN), "https://x", NOW, 0),
    "an expired token": lambda _: accept(
        Fetched(jwt({"aud": AUDIENCE, "exp": 1, "jti": SENTINEL})), AUDIENCE, NOW, 0
    ),
    "a static token that is none": lambda _: StaticSource(EnvSecret("T", f"x {SENTINEL}")),
    "a static token in a bad file": lambda tmp: StaticSource(written(tmp, f"{SENTINEL}\n\n1")),
    "a key that is no JSON": lambda tmp: read_json(written(tmp, f"{{{SENTINEL}"), "c"),
    "a key in bad base64": lambda _: read_json(EnvSecret("K", SENTINEL), "c"),
    "a key that cannot be read": lambda _: ServiceAccountSource(KEY_INFO, "k", GUARD),
    "a key for another place": lambda _: ServiceAccountSource(
        KEY_INFO | {"token_uri": f"https://evil.example/{SENTINEL}"}, "k", GUARD
    ),
    "a file of another type": lambda tmp: CredentialFiles(GUARD, ()).source_of(
        written(tmp, json.dumps({"type": "nonsense", "refresh_token": SENTINEL}))
    ),
    "a foreign exception": lambda _: translate(),
    "a token in the configuration": lambda tmp: configured(
        tmp, f"credentials: {{k: {{static_token: {SENTINEL}}}}}"
    ),
    "a key in the configuration": lambda tmp: configured(
        tmp, f'credentials: {{k: {{service_account_key: \'{{"k": "{SENTINEL}"}}\'}}}}'
    ),
    "a bad key of the environment": lambda tmp: configured(
        tmp, "credentials: {k: {service_account_key: {env: K}}}", K=json.dumps(KEY_INFO)
    ),
}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Log at the lowest level into memory, and give the loggers back as they were."""
    own, root = logging.getLogger("ext_authz"), logging.getLogger()
    before = [(one, list(one.handlers), one.level, one.propagate) for one in (own, root)]
    stream = io.StringIO()
    log.set_up("debug", stream)
    yield stream
    for one, handlers, level, propagate in before:
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate


def everything_about(error: BaseException) -> str:
    """Return what any tool would print of an exception: text, repr, attributes and chain."""
    chain = "".join(traceback.format_exception(error))
    return f"{error!s} {error!r} {error.args} {vars(error)} {chain}"


@pytest.mark.parametrize("name", FAILURES)
def test_no_error_shows_the_secret(name: str, tmp_path: Path, lines: io.StringIO) -> None:
    with pytest.raises(SidecarError) as caught:
        FAILURES[name](tmp_path)
    shown = everything_about(caught.value)
    source_lines = [line for line in shown.splitlines() if "SENTINEL" in line]
    assert SENTINEL not in shown, source_lines
    logging.getLogger("ext_authz").error("failed", exc_info=caught.value)
    log.error(caught.value.message, code=caught.value.code)
    assert SENTINEL not in lines.getvalue()
    assert len(lines.getvalue().splitlines()) == 2


def test_no_value_that_holds_a_secret_shows_it() -> None:
    token = accept(Fetched(TOKEN), AUDIENCE, NOW, 0.5)
    for thing in (
        token,
        Fetched(TOKEN),
        EnvSecret("T", SENTINEL),
        StaticSource(EnvSecret("T", SENTINEL)),
    ):
        for shown in (repr(thing), str(thing), f"{thing}", repr([thing])):
            assert SENTINEL not in shown
            assert "eyJ" not in shown


class Breaking:
    """A source that breaks its promise with the secret in its mouth."""

    kind, found = "breaking", "nowhere"

    def fetch(self, audience: str) -> Fetched:
        raise RuntimeError(f"response body: {SENTINEL}")


async def test_a_source_that_breaks_its_promise_shows_nothing_to_anybody(
    lines: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = SourceRunner({"default": Breaking()})
    clock, metrics = FakeClock(), Metrics()
    cache = TokenCache(runner.fetch, clock=clock, on_fetch=metrics.on_fetch)
    metrics.watch(cache, clock)
    with pytest.raises(TokenUnavailableError) as caught:
        await cache.get(KEY)
    service = CheckService(Policy((Rule("*.run.app", "default"),)), cache, metrics.on_check)
    message = pb.CheckRequest()
    message.attributes.request.http.host = "svc.run.app"
    answer = await reply(service, message)
    runner.close()
    shown = everything_about(caught.value) + lines.getvalue() + answer.decode("latin-1")
    assert SENTINEL not in shown + metrics.exposition().decode() + "".join(capfd.readouterr())


async def test_a_forgotten_task_with_a_secret_is_logged_without_it(lines: io.StringIO) -> None:
    async def breaks() -> None:
        raise ValueError(SENTINEL)

    loop = asyncio.get_running_loop()
    task = loop.create_task(breaks())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_exception_handler(
        {
            "message": "Task exception was never retrieved",
            "exception": task.exception(),
            "task": task,
        }
    )
    assert len(lines.getvalue().splitlines()) == 1
    assert SENTINEL not in lines.getvalue()
