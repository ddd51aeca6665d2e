"""docker-compose.yml: the whole story, and what it leaves reachable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.containers.conftest import StartCompose
from tests.containers.engine import Compose, docker, inspect

pytestmark = pytest.mark.containers
TARGET = "http://hello-abc123-ew.a.run.app/"
STORY = ("up", "--build", "--abort-on-container-exit", "--exit-code-from", "sender")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _said(output: str, service: str) -> list[str]:
    plain = COLOURS.sub("", output)
    return re.findall(rf"^{service}[-_]1\s+\| (.*?)\s*$", plain, re.MULTILINE)


def test_the_whole_story(compose: StartCompose) -> None:
    with compose("story", "docker-compose.yml") as project:
        told = project(*STORY, timeout=300, check=False)
        assert told.returncode == 0, told.stdout[-4000:]
        assert _said(told.stdout, "sender") == [
            "without the sidecar: GET https://hello-abc123-ew.a.run.app/",
            "  403 Your client does not have permission to get URL / from this server.",
            f"through HTTP_PROXY: GET {TARGET}",
            "  200 Hello from the receiving service!",
        ]
        assert _said(told.stdout, "envoy") == [], "Envoy prints nothing on a good day"
        assert not re.search(r"eyJ[\w-]+\.[\w-]+\.", told.stdout), "a token was printed"
        for service in ("ext-authz", "google", "receiver"):
            state = inspect(project.container(service))["State"]
            assert state["ExitCode"] == 0, f"{service} did not stop by itself: {state}"
    assert project.left_over() == ""


@pytest.fixture
def running(compose: StartCompose) -> Compose:
    project = compose("up", "docker-compose.yml")
    project("up", "--detach", "envoy", timeout=120)
    project("up", "--detach", "sender", timeout=120)
    return project


def test_what_each_container_may_do(running: Compose) -> None:
    owner = running.container("ext-authz")
    for service in ("sender", "envoy", "ext-authz", "google", "receiver"):
        found = inspect(running.container(service))
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert found["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
        assert not host["PortBindings"], f"{service} publishes a port"
        shares = host["NetworkMode"] == f"container:{owner}"
        assert shares == (service in ("sender", "envoy")), service
    sender = inspect(running.container("sender"))["Config"]["Env"]
    unknown = ("PATH", "HOME", "PYTHONUNBUFFERED", "PIP_CERT", "LANG", "PYTHON_", "GPG_KEY")
    given = [entry for entry in sender if not entry.startswith(unknown)]
    assert given == ["HTTP_PROXY=http://127.0.0.1:8000"], "the app is given more than a proxy"


def test_nothing_that_hands_out_tokens_is_reachable_from_outside(running: Compose) -> None:
    connect = (
        "import socket, sys\n"
        "for port in (8000, 9090, 9191, 9901, 9902):\n"
        "    try: socket.create_connection(('ext-authz', port), 2)\n"
        "    except ConnectionRefusedError: print(port, 'refused')\n"
    )
    answer = docker("exec", running.container("google"), "python", "-c", connect)
    ports = (8000, 9090, 9191, 9901, 9902)
    assert answer.split("\n") == [f"{port} refused" for port in ports]


def test_with_a_static_token_of_ones_own(compose: StartCompose, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "credentials:\n  mine: {static_token: {env: MY_AUTH_TOKEN}}\n"
        "destinations:\n  - {match: hello-abc123-ew.a.run.app, credential: mine}\n"
    )
    _readable(tmp_path)
    given = {"TARGET_URL": TARGET, "IDTOKEN_SIDECAR_CONFIG": str(config)}
    files = ("docker-compose.yml", "docker-compose.real.yml")
    project = compose("static", *files, environ=given)
    project("up", "--detach", "receiver", timeout=120)
    token = _minted(project)
    project = compose("static", *files, environ={**given, "MY_AUTH_TOKEN": token})
    told = project(*STORY[:1], *STORY[2:], timeout=120, check=False)
    assert told.returncode == 0, told.stdout[-4000:]
    assert _said(told.stdout, "sender")[0] == "200 Hello from the receiving service!"
    assert token not in told.stdout


def test_with_a_key_that_cannot_be_used(compose: StartCompose, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account"}')
    _readable(tmp_path)
    given = {"TARGET_URL": TARGET, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    project = compose("key", "docker-compose.yml", "docker-compose.real.yml", environ=given)
    told = project(*STORY[:1], "--exit-code-from", "sender", timeout=120, check=False)
    assert told.returncode != 0
    assert f"{key}" in told.stdout + project.logs("ext-authz")
    assert inspect(project.container("ext-authz"))["State"]["ExitCode"] == 2


def _readable(path: Path) -> None:
    for each in (path, *path.parents[:3], *path.iterdir()):
        if each != each.parent and str(each).startswith("/tmp/"):
            each.chmod(0o755 if each.is_dir() else 0o644)


def _minted(project: Compose) -> str:
    """Have the stand-in metadata server mint a token, as anybody's own tool would have."""
    fetch = (
        "import urllib.request\n"
        "print(urllib.request.urlopen(urllib.request.Request("
        "'http://127.0.0.1:8080/computeMetadata/v1/instance/service-accounts/default/identity"
        "?audience=https://hello-abc123-ew.a.run.app&format=full',"
        " headers={'Metadata-Flavor': 'Google'})).read().decode())"
    )
    return docker("exec", project.container("google"), "python", "-c", fetch)


def test_the_real_override_says_what_it_needs(compose: StartCompose) -> None:
    project = compose("unset", "docker-compose.yml", "docker-compose.real.yml")
    refused = project("config", check=False)
    assert refused.returncode != 0
    assert "say which service to call" in refused.stdout
