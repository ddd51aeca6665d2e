"""The image by itself: what is in it, how it starts and stops, and what a mistake looks like."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest

from tests.containers.engine import ROOT, docker, inspect, run, wait_until

pytestmark = pytest.mark.containers
LOCKED_DOWN = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
Start = Callable[..., str]


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Return a function that starts a container; it is removed afterwards."""
    names: list[str] = []

    def begin(*options: str, command: tuple[str, ...] = ()) -> str:
        name = f"idtoken-test-{os.getpid()}-{len(names)}"
        names.append(name)
        docker("run", "--detach", f"--name={name}", *LOCKED_DOWN, *options, image, *command)
        return name

    yield begin
    if names:
        docker("rm", "--force", *names)


def _health(name: str) -> str:
    health: str = inspect(name)["State"]["Health"]["Status"]
    return health


@pytest.mark.parametrize("command", [(), ("serve",)], ids=["run", "serve"])
def test_healthy_without_root_or_anything_to_write(start: Start, command: tuple[str, ...]) -> None:
    name = start(command=command)
    wait_until("the container is healthy", lambda: _health(name) == "healthy")
    assert "idtoken-sidecar is ready: " in docker("logs", name)
    docker("stop", "--time=10", name)
    assert inspect(name)["State"]["ExitCode"] == 0


def test_no_shell_is_needed(start: Start) -> None:
    name = start("--volume=/dev/null:/bin/sh:ro", "--volume=/dev/null:/bin/bash:ro")
    wait_until("the container is healthy", lambda: _health(name) == "healthy")


def test_the_image_says_what_it_is(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["idtoken-sidecar"]
    assert config["Cmd"] == ["run"]
    assert config["Healthcheck"]["Test"][0] == "CMD", "not CMD-SHELL"


def test_what_is_installed_is_what_is_locked(image: str) -> None:
    script = (
        "import sysconfig\n"
        "from importlib.metadata import distributions\n"
        "for found in distributions(path=[sysconfig.get_path('purelib')]):\n"
        "    print(found.name.lower().replace('_', '-') + '==' + found.version)"
    )
    printed = docker("run", "--rm", "--entrypoint=python", image, "-c", script).splitlines()
    installed = {line for line in printed if not line.startswith("idtoken-sidecar==")}
    assert len(installed) == len(printed) - 1
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert installed <= set(re.findall(r"^([\w.-]+==[\w.+-]+)", lock, re.MULTILINE))


@pytest.mark.parametrize(
    ("options", "command", "status", "sentence"),
    [
        (
            ("--env=GOOGLE_APPLICATION_CREDENTIALS=/secrets/key.json",),
            (),
            2,
            "/secrets/key.json: it cannot be read: No such file or directory",
        ),
        (("--env=IDTOKEN_SIDECAR_FORWARD_PORT=80000",), (), 2, "expected 0 to 65535, got 80000"),
        ((), ("serve", "--listen=0.0.0.0:9191"), 2, "whoever reaches this address can ask"),
        ((), ("serve", "--listen=unix:/run/x.sock"), 1, "unix:/run/x.sock cannot be listened on"),
        ((), ("run", "--envoy=/nothing"), 1, "--envoy: /nothing is no program"),
    ],
)
def test_a_mistake_is_one_sentence(
    image: str, options: tuple[str, ...], command: tuple[str, ...], status: int, sentence: str
) -> None:
    ended = run("docker", "run", "--rm", *LOCKED_DOWN, *options, image, *command, check=False)
    said = [line for line in ended.stdout.splitlines() if line.startswith("idtoken-sidecar: ")]
    assert ended.returncode == status, ended.stdout
    assert len(said) == 1, ended.stdout
    assert sentence in said[0]
    assert "Traceback" not in ended.stdout


def test_two_sidecars_on_one_port(start: Start, image: str) -> None:
    first = start()
    wait_until("the first is ready", lambda: "is ready" in docker("logs", first))
    second = run(
        *("docker", "run", "--rm", *LOCKED_DOWN, f"--network=container:{first}", image),
        check=False,
    )
    assert second.returncode == 1
    assert "--forward-port: 127.0.0.1:8000 cannot be listened on" in second.stdout
    assert "Traceback" not in second.stdout


def test_nothing_to_write_at_all(image: str) -> None:
    ended = run("docker", "run", "--rm", "--read-only", image, check=False)
    assert ended.returncode == 1
    assert "/tmp" in ended.stdout
    assert "Traceback" not in ended.stdout
