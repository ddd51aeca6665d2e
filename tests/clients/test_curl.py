"""curl through both proxies, in HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ext_authz.standins.private_app import HELLO
from tests.clients.conftest import Run, find_program
from tests.support.messages import BIG_BODY_BYTES, big_body
from tests.support.sidecar import Sidecar
from tests.support.world import SERVICE, World

VERSIONS = ("--http1.1", "--http2-prior-knowledge")
LISTENERS = ("forward", "reverse")
BIG_SHA256 = hashlib.sha256(big_body()).hexdigest()


class Curl:
    """curl aimed at the private service by way of one listener, in one version of HTTP."""

    def __init__(self, run: Run, world: World, sidecar: Sidecar, listener: str, version: str):
        self._run, self._program = run, find_program("curl")
        self._fixed = ["--silent", "--show-error", "--max-time", "30", version]
        self.base = world.service_url if listener == "forward" else sidecar.reverse_url
        self._environ = {"http_proxy": sidecar.proxy_url} if listener == "forward" else {}
        if listener == "forward" and version != "--http1.1":
            # curl speaks HTTP/1 to a cleartext proxy: HTTP/2 goes straight to it as to a server.
            host = world.service_authority
            self._fixed += ["--connect-to", f"{host}:{sidecar.addresses['forward']}"]
            self._environ = {}

    def __call__(self, path: str, *arguments: str) -> bytes:
        """Run it; asserts that it succeeded."""
        command = (self._program, *self._fixed, *arguments, f"{self.base}{path}")
        done = self._run(*command, environ=self._environ)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=LISTENERS)
def listener(request: pytest.FixtureRequest) -> str:
    """Return one of the two ways in."""
    return str(request.param)


@pytest.fixture(params=VERSIONS)
def curl(
    request: pytest.FixtureRequest, run: Run, world: World, sidecar: Sidecar, listener: str
) -> Curl:
    """Return curl by each way in and each version."""
    return Curl(run, world, sidecar, listener, request.param)


def test_plain_get_is_greeted(curl: Curl) -> None:
    """The private service verified the token."""
    assert curl("/").decode() == f"{HELLO}\n"


def test_claims_are_those_of_the_destination(curl: Curl) -> None:
    """The audience is the service's, whatever the way in."""
    assert json.loads(curl("/claims"))["aud"] == f"https://{SERVICE}"


def test_head_has_no_body(curl: Curl) -> None:
    """Its headers are those of a GET."""
    text = curl("/", "--head").decode().lower()
    assert " 200" in text.splitlines()[0]
    assert f"content-length: {len(HELLO) + 1}" in text


def test_10_mb_come_down(curl: Curl) -> None:
    """Whole."""
    assert curl("/big") == big_body()


@pytest.mark.parametrize(
    "headers", [(), ("Transfer-Encoding: chunked",)], ids=["declared", "chunked"]
)
def test_10_mb_go_up(curl: Curl, big_file: Path, headers: tuple[str, ...]) -> None:
    """With Expect: 100-continue as curl does, with a length and in chunks."""
    more = [argument for header in headers for argument in ("--header", header)]
    echo = json.loads(curl("/echo", "--upload-file", str(big_file), *more))
    assert (echo["method"], echo["body_length"]) == ("PUT", BIG_BODY_BYTES)
    assert echo["body_sha256"] == BIG_SHA256


def test_form_is_posted(curl: Curl) -> None:
    """With its content type and nothing that curl did not send."""
    echo = json.loads(curl("/echo?a=b%2Fc//", "--data", "x=1", "--header", "X-App: one"))
    headers = {name.lower(): value for name, value in echo["headers"]}
    assert (echo["method"], echo["path"], echo["body_length"]) == ("POST", "/echo?a=b%2Fc//", 3)
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert headers["x-app"] == "one"
    known = {"host", "user-agent", "accept", "content-type", "content-length", "x-app"}
    assert set(headers) <= known | {"authorization"}


def test_own_credential_is_kept(curl: Curl) -> None:
    """--user still reaches the app; the token travels beside it."""
    echo = json.loads(curl("/echo", "--user", "app:password"))
    headers = {name.lower(): value for name, value in echo["headers"]}
    assert headers["authorization"].startswith("Basic ")
    assert headers["x-serverless-authorization"].startswith("Bearer ")


def test_without_the_sidecar_it_is_refused(run: Run, world: World) -> None:
    """The same request, direct: that is what the sidecar is for."""
    where = ["--connect-to", f"{world.service_authority}:127.0.0.1:{world.service.port}"]
    trust = ["--cacert", str(world.authority.certificate)]
    output = ["--silent", "--output", "-", "--write-out", "%{http_code}"]
    url = f"https://{world.service_authority}/"
    done = run(find_program("curl"), *where, *trust, *output, url)
    assert done.stdout.endswith(b"403"), done.stderr
