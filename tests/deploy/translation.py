"""deploy/envoy-gateway as Envoy Gateway's own tool translates it, kept in translated/.

egctl takes ten minutes of CPU to build, so tests use the kept translation and see to it that it
belongs to the manifests as they are. After a change of those, with egctl of VERSION on PATH (go
install github.com/envoyproxy/gateway/cmd/egctl@VERSION): python -m tests.deploy.translation
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.deploy.go_files import MODULES
from tests.deploy.kustomize import Manifest, render

VERSION = MODULES["github.com/envoyproxy/gateway"][0]
KEPT = Path(__file__).parent / "translated" / "envoy-gateway.json"
NAMESPACE = "idtoken-sidecar"
SERVICE_ADDRESS = "10.96.0.91"
SECONDS = 60


def source() -> list[Manifest]:
    """The manifests that egctl reads, with what a cluster would add; certificates excepted."""
    groups = ("gateway.networking.k8s.io/", "gateway.envoyproxy.io/")
    found = [
        each
        for each in render("envoy-gateway")
        if each["apiVersion"].startswith(groups) or each["kind"] in ("Service", "Namespace")
    ]
    for each in found:
        if each["kind"] == "Service":
            each["spec"]["clusterIP"] = SERVICE_ADDRESS
    return found


def digest() -> str:
    """Tells whether a translation belongs to the manifests as they are."""
    return hashlib.sha256(json.dumps(source(), sort_keys=True).encode()).hexdigest()


def translate(egctl: str) -> dict[str, Any]:
    """Translate anew: what Envoy gets, and the conditions that each object would show."""
    command = [egctl, "x", "translate", "--from", "gateway-api", "--to", "gateway-api,xds"]
    done = subprocess.run(
        [*command, "--type", "all", "--output", "json", "--file", "-"],
        input=yaml.safe_dump_all([*source(), *_secrets()], width=10_000),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    output = json.loads(done.stdout)
    (configs,) = output.pop("xds").values()
    dumps = {one["@type"].rpartition(".")[2]: one for one in configs["configs"]}
    return {
        "egctl": VERSION,
        "source": digest(),
        "conditions": _conditions(output),
        "clusters": _inside(dumps["ClustersConfigDump"], "dynamicActiveClusters", "cluster"),
        "endpoints": _inside(
            dumps["EndpointsConfigDump"], "dynamicEndpointConfigs", "endpointConfig"
        ),
        "listeners": [
            each["activeState"]["listener"]
            for each in dumps["ListenersConfigDump"]["dynamicListeners"]
        ],
        "routes": _inside(dumps["RoutesConfigDump"], "dynamicRouteConfigs", "routeConfig"),
    }


def kept() -> dict[str, Any]:
    """The translation in translated/."""
    found: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return found


def _inside(dump: dict[str, Any], many: str, one: str) -> list[Any]:
    return [each[one] for each in dump[many]]


def _conditions(output: dict[str, Any]) -> dict[str, str]:
    """`Kind/name/Type` of every condition: its status, with the message where it is not True."""
    found: dict[str, str] = {}
    for objects in output.values():
        for each in objects if isinstance(objects, list) else [objects]:
            status = each.get("status", {})
            places = [status, *status.get("listeners", ()), *status.get("parents", ())]
            places += status.get("ancestors", ())
            for condition in (one for place in places for one in place.get("conditions", ())):
                name = f"{each['kind']}/{each['metadata']['name']}/{condition['type']}"
                if condition["status"] != "True":
                    found[name] = condition["message"]
                found.setdefault(name, "True")
    return dict(sorted(found.items()))


def _secrets() -> list[Manifest]:
    """What cert-manager would have made; nothing of it is in the translation."""
    authority = trustme.CA()
    return [
        _secret("idtoken-sidecar-server", authority, "idtoken-sidecar.idtoken-sidecar.svc"),
        _secret("egress-gateway-client", authority, "egress-gateway"),
    ]


def _secret(name: str, authority: trustme.CA, host: str) -> Manifest:
    leaf = authority.issue_cert(host)
    files = {
        "ca.crt": authority.cert_pem.bytes(),
        "tls.crt": leaf.cert_chain_pems[0].bytes(),
        "tls.key": leaf.private_key_pem.bytes(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {key: b64encode(value).decode() for key, value in files.items()},
    }


if __name__ == "__main__":
    program = shutil.which("egctl")
    if program is None:
        sys.exit(f"egctl is not on PATH: expected that of Envoy Gateway {VERSION}")
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(translate(program), indent=1) + "\n", encoding="utf-8")
