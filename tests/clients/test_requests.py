"""requests with HTTP_PROXY in its environment, and by the reverse proxy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from ext_authz.standins.private_app import HELLO
from tests.support.messages import BIG_BODY_BYTES, big_body
from tests.support.sidecar import Sidecar
from tests.support.world import SERVICE, World

TIMEOUT_SECONDS = 30


@pytest.fixture
def session(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> Iterator[requests.Session]:
    """Return an ordinary session in an app's environment."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", sidecar.proxy_url)
    with requests.Session() as made:
        yield made


@pytest.fixture(params=["forward", "reverse"])
def base(
    request: pytest.FixtureRequest,
    world: World,
    sidecar: Sidecar,
    monkeypatch: pytest.MonkeyPatch,
    session: requests.Session,
) -> str:
    """Return the URL that the app has in its settings."""
    if request.param == "forward":
        return world.service_url
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return sidecar.reverse_url


def test_app_is_greeted(session: requests.Session, base: str) -> None:
    """Its code knows nothing of tokens."""
    assert session.get(f"{base}/", timeout=TIMEOUT_SECONDS).text == f"{HELLO}\n"


def test_ten_requests_reuse_one_connection_and_one_token(
    world: World, session: requests.Session, base: str
) -> None:
    """Every one with the right audience."""
    before = world.google.count("identity")
    for _ in range(10):
        claims = session.get(f"{base}/claims", timeout=TIMEOUT_SECONDS).json()
        assert claims["aud"] == f"https://{SERVICE}"
    assert world.google.count("identity") - before <= 1


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_10_mb_go_up(session: requests.Session, base: str, chunked: bool) -> None:
    """A generator makes requests send chunks."""
    body = big_body()
    pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    data = pieces if chunked else body
    echo = session.post(f"{base}/echo", data=data, timeout=TIMEOUT_SECONDS).json()
    assert echo["body_length"] == BIG_BODY_BYTES
    assert echo["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_own_authorization_is_kept(session: requests.Session, base: str) -> None:
    """auth= still reaches the app."""
    echo = session.get(f"{base}/echo", auth=("app", "password"), timeout=TIMEOUT_SECONDS).json()
    names = [name.lower() for name, _ in echo["headers"]]
    assert names.count("authorization") == 1
    assert names.count("x-serverless-authorization") == 1


def test_error_of_the_sidecar_is_json(world: World, session: requests.Session) -> None:
    """So that an app's log says what to do."""
    answer = session.get("http://169.254.169.254/", timeout=TIMEOUT_SECONDS)
    assert (answer.status_code, answer.json()["error"]) == (403, "destination_forbidden")
