"""The CI recipes fit their vendors' schemas; their very commands build with a private module."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import ext_authz
from ext_authz.standins.google import GoogleStandIn
from tests.clients.conftest import cache_directory, find_program
from tests.deploy.federation import led_here, let_in
from tests.deploy.recipes import SCHEMAS, recipe, text
from tests.support.go_modules import GREET, go_environment, write_program
from tests.support.sidecar import clean_environment
from tests.support.world import World

SECONDS = 120
OIDC_URL = "https://oidc.example.com/request?api-version=2"
TOKEN = "the job's OIDC token"

Shell = Callable[[str, Mapping[str, str]], subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_a_recipe_is_what_its_vendor_reads(name: str, schema: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text(name))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    transform = ["--data-transform", "gitlab-ci"] if "gitlab" in name else []
    done = subprocess.run([*command, *transform, str(file)], capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout
    file.write_text(text(name).replace("build:\n", "build: 7\nx:\n").replace("steps:", "stops:"))
    assert subprocess.run([*command, *transform, str(file)], capture_output=True).returncode != 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_recipe_neither_sleeps_nor_leaves_anything_open(name: str) -> None:
    """`exec` waits and cleans up; versions are pinned."""
    assert not re.search(r"\bsleep\b|\bcurl\b|&\s*$", text(name), re.M)
    assert f"idtoken-sidecar[envoy]=={ext_authz.__version__}" in text(name)
    assert "https://athens-" in recipe(name).variables["ATHENS_URL"]
    assert sum("idtoken-sidecar exec" in each for each in recipe(name).scripts) == 1


@pytest.fixture(scope="module")
def build_cache() -> Path:
    """Return a cache of compiled packages: the standard library is compiled once per machine."""
    return cache_directory("go-build")


@pytest.fixture
def shell(world: World, tmp_path: Path, build_cache: Path) -> Shell:
    """Return a function that runs a recipe's script as a runner would, beside the program."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "idtoken-sidecar"
    root = shlex.quote(str(Path(ext_authz.__file__).parents[1]))
    python = shlex.quote(sys.executable)
    command.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {python} -m ext_authz "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    program = write_program(tmp_path / "app")
    # What differs from the recipes' world: where things are, and what is trusted.
    settings = tmp_path / "here.yaml"
    settings.write_text(world.config(rules=[f'{{match: "{world.service_authority}"}}']))
    go = go_environment("off", tmp_path)
    fixed = {
        **go,
        "GOCACHE": str(build_cache),
        "CGO_ENABLED": "0",
        "IDTOKEN_SIDECAR_CONFIG": str(settings),
        **{
            f"IDTOKEN_SIDECAR_{each}_PORT": "0"
            for each in ("FORWARD", "REVERSE", "ADMIN", "STATUS")
        },
        "IDTOKEN_SIDECAR_LISTEN": "127.0.0.1:0",
    }

    def run(script: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        environ = clean_environment(tmp_path, {**fixed, **variables})
        environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script.replace("/opt/sidecar/bin/", "")],
            cwd=program,
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return run


def athens(world: World) -> dict[str, str]:
    """The variables of every recipe, with this machine's module proxy."""
    world.service.forget()
    return {"ATHENS_URL": f"https://{world.service_authority}", "GONOSUMDB": "*"}


def built_with(world: World) -> set[str]:
    """Whose tokens came with the requests for the private module."""
    asked = [one for one in world.service.requests if GREET.path in one.path]
    assert {one.status for one in asked} == {200}
    return {str((one.claims or {})["email"]) for one in asked}


@pytest.mark.slow
def test_gitlab_builds_with_its_oidc_token(world: World, shell: Shell, tmp_path: Path) -> None:
    find_program("go")
    found = recipe("gitlab-ci.yml")
    account = found.variables["SERVICE_ACCOUNT"]
    let_in(world, found.variables["PROVIDER"], TOKEN, account)
    assert f"aud: https://iam.googleapis.com/{found.variables['PROVIDER']}" in text("gitlab-ci.yml")
    prepare = led_here(world, found.script("federation.json"))
    variables = {**found.variables, **athens(world), "GOOGLE_ID_TOKEN": TOKEN}
    variables["CI_PROJECT_DIR"] = str(tmp_path / "app")
    done = shell(prepare + found.script("go build"), variables)
    assert done.returncode == 0, done.stderr
    assert built_with(world) == {account}
    assert (tmp_path / "app.tmp" / "token").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_drone_builds_with_a_key(world: World, shell: Shell, tmp_path: Path) -> None:
    find_program("go")
    found = recipe("drone.yml")
    account = "drone@example-project.iam.gserviceaccount.com"
    key = json.dumps(GoogleStandIn.service_account_key(world.google, account))
    config = tmp_path / "drone.yaml"
    config.write_text(world.config())
    file = "/opt/sidecar/sidecar.yaml"
    prepare = found.script("service_account_key:").replace(f">{file}", f">>{config}")
    variables = {**found.variables, **athens(world), "SERVICE_ACCOUNT_KEY": key}
    build = found.script("go build").replace(file, str(config))
    done = shell(f"{prepare}\n{build}", variables)
    assert done.returncode == 0, done.stderr
    assert built_with(world) == {account}


def test_github_names_its_oidc_endpoint_as_trusted(shell: Shell, tmp_path: Path) -> None:
    """The endpoint itself needs GitHub; what the step writes is read, and the build step runs."""
    found = recipe("github-actions.yml")
    variables = {
        **found.variables,
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_ENV": str(tmp_path / "env"),
        "ACTIONS_ID_TOKEN_REQUEST_URL": OIDC_URL,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the right to ask",
    }
    assert shell(found.script("federation.json"), variables).returncode == 0
    settings = dict(each.split("=", 1) for each in (tmp_path / "env").read_text().splitlines())
    said = shell("idtoken-sidecar explain --json http://svc.run.app/", settings)
    assert said.returncode == 0, said.stderr
    assert "workload" in said.stdout, said.stdout
    assert "the right to ask" not in said.stdout + said.stderr
    written = json.loads((tmp_path / "federation.json").read_text())
    assert written["credential_source"]["url"].startswith(f"{OIDC_URL}&audience=https://iam.")
    untrusted = {**settings, "IDTOKEN_SIDECAR_CONFIG": str(tmp_path / "here.yaml")}
    assert "trusted_endpoints" in shell("idtoken-sidecar token https://a.b", untrusted).stderr


@pytest.mark.slow
def test_github_builds_with_whatever_credential_the_job_has(world: World, shell: Shell) -> None:
    find_program("go")
    found = recipe("github-actions.yml")
    variables = {**found.variables, **athens(world), **world.google.environment()}
    done = shell(found.script("go build"), variables)
    assert done.returncode == 0, done.stderr
    assert built_with(world) == {str(world.google.metadata.email)}


@pytest.mark.slow
def test_a_failing_build_fails_the_job(world: World, shell: Shell, tmp_path: Path) -> None:
    find_program("go")
    (tmp_path / "app" / "broken.go").write_text("package main\nfunc {")
    found = recipe("github-actions.yml")
    variables = {**found.variables, **athens(world), **world.google.environment()}
    done = shell(found.script("go build"), variables)
    assert done.returncode == 1
    assert "broken.go" in done.stderr
