"""Node's own http module with a proxy agent, and undici."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ext_authz.standins.private_app import HELLO
from tests.clients.conftest import Run, cache_directory, find_program
from tests.support.messages import BIG_BODY_BYTES, big_body
from tests.support.sidecar import Sidecar
from tests.support.world import SERVICE, World

SOURCES = Path(__file__).parents[1] / "support" / "node"
AGENTS = ("http", "undici", "undici-tunnel")


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the locked packages once per machine and lock file; return where the scripts are."""
    npm, _ = find_program("npm"), find_program("node")
    digest = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    target = cache_directory(f"node-{digest}")
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for source in (*SOURCES.glob("*.mjs"), *SOURCES.glob("package*.json")):
            shutil.copy(source, target)
        if not (target / ".installed").exists():
            flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            done = subprocess.run(
                [npm, "ci", *flags], cwd=target, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                pytest.skip(f"npm ci failed: {done.stderr.strip().splitlines()[-1:]}")
            (target / ".installed").touch()
    return target


@pytest.fixture
def get(run: Run, scripts: Path, sidecar: Sidecar) -> Any:
    """Return a function that makes one request in a Node process and gives its answer."""

    def node(url: str, agent: str = "http", *arguments: str, proxied: bool = True) -> Any:
        proxy = ["--proxy", sidecar.proxy_url] if proxied else []
        command = [find_program("node"), str(scripts / "get.mjs"), "--url", url, "--agent", agent]
        done = run(*command, *proxy, *arguments, cwd=scripts)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    return node


@pytest.mark.parametrize("agent", AGENTS)
def test_app_is_greeted_through_the_forward_proxy(world: World, get: Any, agent: str) -> None:
    """By absolute URLs, and by the CONNECT that undici makes for plain HTTP too."""
    answer = get(f"{world.service_url}/", agent)
    assert (answer["status"], answer["body"]) == (200, f"{HELLO}\n")
    claims = json.loads(get(f"{world.service_url}/claims", agent)["body"])
    assert claims["aud"] == f"https://{SERVICE}"


@pytest.mark.parametrize("agent", ["http", "undici"])
def test_app_is_greeted_through_the_reverse_proxy(sidecar: Sidecar, get: Any, agent: str) -> None:
    """Without any proxy setting."""
    answer = get(f"{sidecar.reverse_url}/", agent, proxied=False)
    assert (answer["status"], answer["body"]) == (200, f"{HELLO}\n")


@pytest.mark.parametrize("agent", AGENTS)
def test_10_mb_go_up(world: World, get: Any, big_file: Path, agent: str) -> None:
    """From a file."""
    more = ["--method", "POST", "--body-file", str(big_file)]
    echo = json.loads(get(f"{world.service_url}/echo", agent, *more)["body"])
    assert echo["body_length"] == BIG_BODY_BYTES
    assert echo["body_sha256"] == hashlib.sha256(big_body()).hexdigest()


def test_own_authorization_is_kept(world: World, get: Any) -> None:
    """The token travels beside it."""
    more = ["--header", "authorization: Basic YXBwOnB3"]
    echo = json.loads(get(f"{world.service_url}/echo", "http", *more)["body"])
    headers = {name.lower(): value for name, value in echo["headers"]}
    assert headers["authorization"] == "Basic YXBwOnB3"
    assert headers["x-serverless-authorization"].startswith("Bearer ")


def test_trailers_arrive(world: World, get: Any) -> None:
    """As Node shows them."""
    answer = get(f"{world.capture_url}/trailers")
    assert answer["trailers"] == {"x-trailer": "at the end"}
