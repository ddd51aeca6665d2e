"""Every manifest is what its kind's schema says, and the check itself finds what is wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from tests.deploy import go_files
from tests.deploy.kustomize import DEPLOY, named, render
from tests.deploy.schemas import problems

RENDERED = (
    "kubernetes/overlays/gke",
    "kubernetes/overlays/federation",
    "kubernetes/overlays/envoy-and-service",
    "kubernetes/overlays/job",
    "kubernetes/service",
    "istio",
    "envoy-gateway",
)


@pytest.mark.parametrize("name", RENDERED)
def test_every_manifest_fits_its_schema(name: str) -> None:
    found = {f"{each['kind']} {each['metadata']['name']}": problems(each) for each in render(name)}
    assert {name: each for name, each in found.items() if each} == {}


def test_every_kustomization_is_rendered_by_a_test() -> None:
    """Components and stand-ins are rendered as parts of the overlays."""
    parts = {"kubernetes/app", "kubernetes/job"}
    found = {
        str(file.parent.relative_to(DEPLOY))
        for file in DEPLOY.rglob("kustomization.yaml")
        if yaml.safe_load(file.read_text())["kind"] == "Kustomization"
    }
    assert found - parts == set(RENDERED)


def changed(manifest: dict[str, Any], value: Any, *path: str | int) -> dict[str, Any]:
    """The manifest with another value at a path."""
    copied = copy.deepcopy(manifest)
    node: Any = copied
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return copied


POD = ("spec", "template", "spec")
EXT_AUTH = ("spec", "extAuth")
BOTH_KINDS = [{"name": "destination", "type": "ValueRef", "value": "x"}]


@pytest.mark.parametrize(
    ("name", "kind", "value", "path", "part"),
    [
        ("kubernetes/service", "Deployment", "3", ("spec", "replicas"), "integer"),
        ("kubernetes/service", "Deployment", 1, (*POD, "noSuchField"), "noSuchField"),
        ("kubernetes/service", "Deployment", 1, (*POD, "containers", 0, "restart"), "restart"),
        ("envoy-gateway", "SecurityPolicy", True, (*EXT_AUTH, "failopen"), "unknown field"),
        ("envoy-gateway", "SecurityPolicy", 999, (*EXT_AUTH, "statusOnError"), "not one of"),
        ("envoy-gateway", "SecurityPolicy", {}, (*EXT_AUTH, "http"), "only one of grpc or http"),
        (
            "envoy-gateway",
            "SecurityPolicy",
            BOTH_KINDS,
            (*EXT_AUTH, "contextExtensions"),
            "valueRef",
        ),
        ("envoy-gateway", "GatewayClass", "x", ("metadata", "namespace"), "no namespace"),
        ("istio", "ServiceEntry", "DNS_SOMEHOW", ("spec", "resolution"), "not one of"),
        ("istio", "PeerAuthentication", {"mod": "STRICT"}, ("spec", "mtls"), "unknown field"),
    ],
)
def test_a_wrong_manifest_is_found(
    name: str, kind: str, value: object, path: tuple[str | int, ...], part: str
) -> None:
    found = next(each for each in render(name) if each["kind"] == kind)
    assert problems(found) == []
    assert part in " ".join(problems(changed(found, value, *path)))


def test_the_mesh_configuration_is_what_istio_reads(tmp_path: Path) -> None:
    """It is no Kubernetes object: its schema is a protobuf message of istio.io/api."""
    source = go_files.directory("istio.io/api")
    descriptors = tmp_path / "mesh.bin"
    includes = [f"-I{source}", f"-I{source / 'common-protos'}", "--include_imports"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes]
    command += [f"--descriptor_set_out={descriptors}", str(source / "mesh/v1alpha1/config.proto")]
    subprocess.run(command, check=True, timeout=60)
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    name = "istio.mesh.v1alpha1.MeshConfig"
    mesh = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    values = yaml.safe_load((DEPLOY / "istio" / "mesh-config.yaml").read_text())
    read = json_format.ParseDict(values["meshConfig"], mesh())
    provider = read.extension_providers[0]
    assert provider.envoy_ext_authz_grpc.fail_open is False
    with pytest.raises(json_format.ParseError, match="contextExtensions"):
        json_format.ParseDict({"extensionProviders": [{"contextExtensions": {}}]}, mesh())
    policies = [each for each in render("istio") if each["kind"] == "AuthorizationPolicy"]
    wanted = {each["spec"]["provider"]["name"] for each in policies if "provider" in each["spec"]}
    assert wanted == {provider.name}
    service = named(render("istio"), "Service", "idtoken-sidecar")["metadata"]
    host = f"{service['name']}.{service['namespace']}.svc.cluster.local"
    assert provider.envoy_ext_authz_grpc.service == host
