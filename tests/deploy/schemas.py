"""Validates manifests as an API server would: types, unknown fields, and CRDs' CEL rules.

Kubernetes' own kinds go against its OpenAPI schemas (kubernetes-validate ships them); custom ones
against the CRDs of the project's own release.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import yaml

from tests.deploy import go_files

KUBERNETES = ("1.29", "1.37")  # the first with native sidecars by default, and the newest
CRDS = {
    "sigs.k8s.io/gateway-api": "config/crd/standard/gateway.*.yaml",
    "github.com/envoyproxy/gateway": "charts/gateway-helm/charts/crds/crds/generated/*.yaml",
    "istio.io/api": "kubernetes/customresourcedefinitions.gen.yaml",
    "github.com/cert-manager/cert-manager": "deploy/crds/cert-manager.io_*.yaml",
}
GROUPS = {
    "gateway.networking.k8s.io": "sigs.k8s.io/gateway-api",
    "gateway.envoyproxy.io": "github.com/envoyproxy/gateway",
    "networking.istio.io": "istio.io/api",
    "security.istio.io": "istio.io/api",
    "cert-manager.io": "github.com/cert-manager/cert-manager",
}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Node = dict[str, Any]


def problems(manifest: Node) -> list[str]:
    """Everything that is wrong with a manifest; empty if an API server would take it."""
    group = manifest["apiVersion"].rpartition("/")[0]
    if group in GROUPS:
        return list(_custom_problems(manifest, _crd_schema(manifest, GROUPS[group])))
    return [each for version in KUBERNETES for each in _core_problems(manifest, version)]


def _core_problems(manifest: Node, version: str) -> Iterator[str]:
    try:
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used == version, f"there are no schemas of Kubernetes {version}"
    except kubernetes_validate.ValidationError as error:
        yield f"Kubernetes {version}: {list(error.path)}: {error.message[:300]}"


@functools.cache
def _crds(module: str) -> dict[tuple[str, str, str], Node]:
    """The schemas by (group, version, kind)."""
    found: dict[tuple[str, str, str], Node] = {}
    files: list[Path] = sorted(go_files.directory(module).glob(CRDS[module]))
    assert files, f"{module} has no {CRDS[module]}"
    for file in files:
        for crd in yaml.load_all(file.read_text(encoding="utf-8"), Loader=_LOADER):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (spec["group"], version["name"], spec["names"]["kind"])
                found[key] = {**version["schema"]["openAPIV3Schema"], "x-scope": spec["scope"]}
    return found


def _crd_schema(manifest: Node, module: str) -> Node:
    group, _, version = manifest["apiVersion"].partition("/")
    key = (group, version, manifest["kind"])
    assert key in _crds(module), f"{module} defines no {key}"
    return _crds(module)[key]


def _custom_problems(manifest: Node, schema: Node) -> Iterator[str]:
    if schema["x-scope"] == "Cluster" and "namespace" in manifest["metadata"]:
        yield "metadata.namespace: this kind belongs to no namespace"
    value = copy.deepcopy(manifest)
    _default(value, schema)
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        yield f"{list(error.path)}: {error.message[:300]}"
    yield from _walk(value, schema, "")


def _default(value: Any, schema: Node) -> None:
    """Fill in the schema's defaults, as an API server does before its rules run."""
    if isinstance(value, dict):
        for name, each in schema.get("properties", {}).items():
            if name not in value and "default" in each:
                value[name] = copy.deepcopy(each["default"])
            if name in value:
                _default(value[name], each)
        more = schema.get("additionalProperties")
        for name in value.keys() - schema.get("properties", {}).keys():
            _default(value[name], more if isinstance(more, dict) else {})
    elif isinstance(value, list):
        for item in value:
            _default(item, schema.get("items", {}))


def _walk(value: Any, schema: Node, path: str) -> Iterator[str]:
    """Unknown fields, doubled keys of lists, and CEL rules, from the outside in."""
    yield from _rule_problems(value, schema, path)
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties")
        is_closed = path and known and not schema.get("x-kubernetes-preserve-unknown-fields")
        for name, each in value.items():
            inner = known.get(name, more)
            if isinstance(inner, dict):
                yield from _walk(each, inner, f"{path}.{name}")
            elif is_closed:
                yield f"{path}.{name}: unknown field"
    elif isinstance(value, list):
        yield from _doubled(value, schema.get("x-kubernetes-list-map-keys", []), path)
        for number, item in enumerate(value):
            yield from _walk(item, schema.get("items", {}), f"{path}[{number}]")


def _doubled(items: list[Any], keys: list[str], path: str) -> Iterator[str]:
    seen = [tuple(str(item.get(key)) for key in keys) for item in items] if keys else []
    if len(set(seen)) < len(seen):
        yield f"{path}: two items with the same {keys}"


def _rule_problems(value: Any, schema: Node, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"]:
            continue  # says what an update may not change
        try:
            holds = cel.compile(rule["rule"]).execute({"self": value})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            holds = repr(error)  # an API server, too, refuses what a rule cannot be applied to
        if holds is not True:
            yield f"{path}: {rule.get('message') or rule['rule']} ({holds})"
