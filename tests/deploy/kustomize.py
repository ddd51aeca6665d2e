"""Renders a kustomization with whatever renderer this machine has, or builds one."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.conftest import cache_directory

DEPLOY = Path(__file__).parents[2] / "deploy"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.8.1"
BUILD_SECONDS = 300
RENDER_SECONDS = 60

Manifest = dict[str, Any]


@functools.cache
def _renderer() -> tuple[str, ...]:
    """The command that renders: kubectl's built-in kustomize, kustomize, or one built by go."""
    if kubectl := shutil.which("kubectl"):
        return (kubectl, "kustomize")
    if kustomize := shutil.which("kustomize"):
        return (kustomize, "build")
    return (str(_build()), "build")


def _build() -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("neither kubectl, kustomize nor go is installed here")
    directory = cache_directory("kustomize-" + KUSTOMIZE.rpartition("@")[2])
    program = directory / "kustomize"
    if not program.exists():
        directory.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "GOBIN": str(directory), "GOFLAGS": "-buildvcs=false"}
        command = [go, "install", KUSTOMIZE]
        subprocess.run(command, env=environ, check=True, timeout=BUILD_SECONDS)
    return program


@functools.cache
def render_text(name: str) -> str:
    """The manifests of deploy/NAME as YAML. Raises CalledProcessError with the renderer's words."""
    # envoy.yaml lies outside of the directories that use it, which kustomize allows only so.
    flag = "--load-restrictor=LoadRestrictionsNone"
    done = subprocess.run(
        [*_renderer(), flag, str(DEPLOY / name)],
        capture_output=True,
        text=True,
        timeout=RENDER_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(name: str) -> list[Manifest]:
    """The manifests of deploy/NAME."""
    return [each for each in yaml.safe_load_all(render_text(name)) if each]


def named(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one manifest of this kind (and name, or whose name begins with it and a hash)."""
    found = [
        each
        for each in manifests
        if each["kind"] == kind and (not name or each["metadata"]["name"].startswith(name))
    ]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]
