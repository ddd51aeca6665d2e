"""Runs docker and docker-compose commands, and removes what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "idtoken-sidecar:local"
COMMAND_SECONDS = 60
BUILD_SECONDS = 900
_STANDINS = {
    "PYTHON_IMAGE": "idtoken-sidecar-standin/python:bookworm-slim",
    "ENVOY_IMAGE": "idtoken-sidecar-standin/envoy:v*",
}


class CommandFailedError(AssertionError):
    """A command that had to succeed did not; the message holds what it printed."""


def run(
    *command: str,
    environ: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = COMMAND_SECONDS,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; stdout and stderr come back together in `stdout`."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise CommandFailedError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-6000:]}")
    return done


def docker(*arguments: str, **options: Any) -> str:
    """Run a docker command that must succeed; return what it printed."""
    return run("docker", *arguments, **options).stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    """Return what the engine knows of a container, an image or a network."""
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def engine_answers() -> bool:
    """Say whether there is a Docker engine to talk to."""
    if shutil.which("docker") is None:
        return False
    done = run("docker", "version", "--format", "{{.Server.Version}}", check=False)
    return done.returncode == 0


def compose_command() -> list[str] | None:
    """Return docker-compose, or Compose v2, or None where there is neither."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    found = run("docker", "compose", "version", check=False).returncode == 0
    return ["docker", "compose"] if found else None


def base_images() -> dict[str, str]:
    """Return PYTHON_IMAGE and ENVOY_IMAGE: the caller's, else stand-ins that this engine holds."""
    found = {}
    for name, pattern in _STANDINS.items():
        listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}", pattern).split()
        value = os.environ.get(name) or next(iter(listed), "")
        if value:
            found[name] = value
    return found


def build(tag: str, *arguments: str, dockerfile: str = "Dockerfile") -> None:
    """Build an image from this checkout."""
    values = [f"--build-arg={name}={image}" for name, image in base_images().items()]
    if dockerfile == "Dockerfile":
        values = [value for value in values if "PYTHON_IMAGE" in value]
    command = ["build", "--file", dockerfile, "--tag", tag, *values, *arguments, "."]
    docker(*command, timeout=BUILD_SECONDS)


def wait_until(
    what: str, condition: Callable[[], object], seconds: float = 30, pause: float = 0.2
) -> None:
    """Wait until `condition` holds; raises AssertionError that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"within {seconds} s it did not happen: {what}")
        time.sleep(pause)


class Compose:
    """One project of docker-compose: a context manager that removes everything at its end."""

    def __init__(
        self,
        command: Sequence[str],
        project: str,
        *files: str,
        directory: Path = ROOT,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.project = f"idtoken-test-{os.getpid()}-{project}"
        named = [f"--file={directory / file}" for file in files]
        self._command = [*command, f"--project-name={self.project}", *named]
        self._directory = directory
        self._environ = {**base_images(), **(environ or {})}

    def __enter__(self) -> Compose:
        return self

    def __exit__(self, *_: object) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout=5", check=False)

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a subcommand."""
        return run(
            *self._command, *arguments, cwd=self._directory, environ=self._environ, **options
        )

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self("ps", "--all", "--quiet", service).stdout.split()[-1]

    def logs(self, service: str) -> str:
        """Return what a service printed."""
        return docker("logs", self.container(service))

    def left_over(self) -> str:
        """Return the containers, networks and volumes that this project still has."""
        label = f"--filter=label=com.docker.compose.project={self.project}"
        return (
            docker("ps", "--all", "--quiet", label)
            + docker("network", "ls", "--quiet", label)
            + docker("volume", "ls", "--quiet", label)
        )
