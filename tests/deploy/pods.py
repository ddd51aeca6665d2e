"""Reads the pods out of rendered manifests."""

from __future__ import annotations

from typing import Any

from tests.deploy.kustomize import Manifest, render

WORKLOADS = ("Deployment", "Job")
OVERLAYS = (
    "kubernetes/overlays/gke",
    "kubernetes/overlays/federation",
    "kubernetes/overlays/envoy-and-service",
    "kubernetes/overlays/job",
    "kubernetes/service",
    "istio",
    "envoy-gateway",
)


def pods(name: str) -> list[Manifest]:
    """The pod templates of deploy/NAME, with the name and the kind of their workload."""
    return [
        {**each["spec"]["template"], "of": f"{each['kind']}/{each['metadata']['name']}"}
        for each in render(name)
        if each["kind"] in WORKLOADS
    ]


def containers(pod: Manifest) -> list[Manifest]:
    """All of them, in the order in which they start."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def ours(pod: Manifest) -> list[Manifest]:
    """Those that this project brings."""
    return [each for each in containers(pod) if each["name"] in ("idtoken-sidecar", "envoy")]


def environment(container: Manifest, **fields: str) -> dict[str, str]:
    """Name and value of every variable; `fields` are what the downward API gives, by variable."""
    found: dict[str, str] = {}
    for each in container.get("env", ()):
        name = each["name"]
        value: Any = each.get("value", fields.get(name, ""))
        for known, text in found.items():
            value = value.replace(f"$({known})", text)
        found[name] = value
    return found
