"""The real go command builds a private module that only a verified caller may download."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import Run, find_program
from tests.support.go_modules import GREET, GREETING, go_environment, write_program
from tests.support.sidecar import Sidecar, clean_environment, command_line, free_ports
from tests.support.world import World

BASE = f"/{GREET.path}/@v"
NEEDED = [f"{BASE}/list", f"{BASE}/{GREET.version}.info", f"{BASE}/{GREET.version}.zip"]
BUILD_SECONDS = 120


@pytest.fixture(scope="module")
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache of compiled packages: the standard library is compiled once."""
    return tmp_path_factory.mktemp("gocache")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return the sources of an app that needs the private module."""
    return write_program(tmp_path / "app")


def settings(goproxy: str, tmp_path: Path, build_cache: Path) -> dict[str, str]:
    """The go command's environment."""
    more = {"GOCACHE": str(build_cache), "GONOSUMDB": "*", "GONOSUMCHECK": "1", "CGO_ENABLED": "0"}
    return {**go_environment(goproxy, tmp_path), **more}


def asked(world: World) -> dict[str, int | None]:
    """Which module files were asked for, and the status of each."""
    return {one.path: one.status for one in world.service.requests if GREET.path in one.path}


def test_go_builds_a_private_module(
    world: World, sidecar: Sidecar, run: Run, program: Path, tmp_path: Path, build_cache: Path
) -> None:
    """GOPROXY=http://localhost:9090 go build; every file was verified."""
    go = find_program("go")
    environ = settings(f"http://localhost:{sidecar.reverse[1]}", tmp_path, build_cache)
    world.service.forget()
    latest = run(go, "list", "-m", "-versions", GREET.path, environ=environ, cwd=program)
    assert latest.stdout.decode().split() == [GREET.path, GREET.version], latest.stderr
    query = run(go, "list", "-m", f"{GREET.path}@latest", environ=environ, cwd=program)
    assert query.returncode == 0, query.stderr
    built = run(go, "build", "-o", "app", ".", environ=environ, cwd=program)
    assert built.returncode == 0, built.stderr
    assert run(str(program / "app")).stdout.decode().strip() == GREETING
    statuses = asked(world)
    assert set(statuses) >= {*NEEDED, f"{BASE}/{GREET.version}.mod"}
    assert set(statuses.values()) == {200}
    assert all(one.claims for one in world.service.requests)


def test_go_is_refused_without_the_sidecar(
    world: World, run: Run, program: Path, tmp_path: Path, build_cache: Path
) -> None:
    """The module proxy knows only callers with a token."""
    goproxy = f"https://127.0.0.1:{world.service.port}"
    environ = settings(goproxy, tmp_path, build_cache)
    environ["SSL_CERT_FILE"] = str(world.authority.certificate)
    built = run(find_program("go"), "build", ".", environ=environ, cwd=program)
    assert built.returncode != 0
    assert b"403" in built.stderr


def test_exec_wraps_a_go_build(
    world: World, program: Path, tmp_path: Path, build_cache: Path
) -> None:
    """`idtoken-sidecar exec --upstream … -- go build`, with SIDECAR_URL as GOPROXY."""
    find_program("go")
    config = tmp_path / "sidecar.yaml"
    config.write_text(world.config())
    environ = {**world.google.environment(), **settings("", tmp_path, build_cache)}
    upstream = f"--upstream=https://{world.service_authority}"
    flags = [f"--config={config}", upstream, *free_ports("exec")]
    shell = f'cd {program} && GOPROXY="$SIDECAR_URL" go run .'
    done = subprocess.run(
        command_line("exec", *flags, "--", "sh", "-c", shell),
        env=clean_environment(tmp_path, environ),
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, GREETING), done.stderr
