"""An Envoy that is not configured by us: what Envoy Gateway or Istio would send it, made static.

Nothing of the filters is changed. What changes: addresses and ports, DNS, and that routes,
endpoints and secrets stand in the file where a control plane would send them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ext_authz.envoy_config import EnvoySettings
from ext_authz.standins.certificates import Authority
from tests.support.envoy import Envoy
from tests.support.sidecar import Address

CARES = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"

_PLAIN = tuple(
    f"type.googleapis.com/envoy.config.{name}"
    for name in (
        "cluster.v3.Cluster",
        "listener.v3.Listener",
        "route.v3.RouteConfiguration",
        "endpoint.v3.ClusterLoadAssignment",
    )
)

Node = dict[str, Any]


class ForeignEnvoy(Envoy):
    """Envoy with a bootstrap of the test's own."""

    def __init__(self, directory: Path, bootstrap: Node) -> None:
        super().__init__(directory, EnvoySettings())
        self._config.write_text(json.dumps(bootstrap, indent=1))

    def listener(self, name: str) -> Address:
        """Where a listener listens."""
        found = json.loads(self.get_admin("/listeners?format=json"))["listener_statuses"]
        for each in found:
            if each["name"] == name:
                address = each["local_address"]["socket_address"]
                return str(address["address"]), int(address["port_value"])
        raise LookupError(name)


def socket_address(host: str, port: int) -> Node:
    """Envoy's address."""
    return {"socketAddress": {"address": host, "portValue": port}}


def bootstrap(listeners: list[Node], clusters: list[Node], secrets: list[Node]) -> Node:
    """A whole configuration with an admin interface on a free port."""
    resources = {"listeners": listeners, "clusters": clusters, "secrets": secrets}
    admin = {"address": socket_address("127.0.0.1", 0)}
    return {"admin": admin, "staticResources": resources}


def trust(name: str, authority: Authority) -> Node:
    """A secret that holds a CA."""
    return {
        "name": name,
        "validationContext": {"trustedCa": {"filename": str(authority.certificate)}},
    }


def identity(name: str, authority: Authority, *hosts: str, file_name: str) -> Node:
    """A secret that holds a certificate and its key."""
    leaf = authority.issue(*hosts, file_name=file_name)
    files = {
        "certificateChain": {"filename": str(leaf.certificate)},
        "privateKey": {"filename": str(leaf.key)},
    }
    return {"name": name, "tlsCertificate": files}


def localised(translation: Node, service: Address, upstream_port: int, dns: str) -> Node:
    """Listeners and clusters of a translation, for this machine: static, and on free ports.

    `service` is where the ext_authz service listens; destinations are looked up at `dns` and
    dialled at `upstream_port` where the translation names the port 443.
    """
    found = copy.deepcopy({name: translation[name] for name in ("listeners", "clusters")})
    routes = {each["name"]: each for each in translation["routes"]}
    endpoints = {each["clusterName"]: each for each in translation["endpoints"]}
    found["listeners"] = [each for each in found["listeners"] if "ready" not in each["name"]]
    for listener in found["listeners"]:
        listener["address"] = socket_address("127.0.0.1", 0)
    for node in _nodes(found):
        if str(node.get("@type")).startswith(_PLAIN):
            del node["@type"]  # as members of Bootstrap these are no google.protobuf.Any
        if "rds" in node:
            node["routeConfig"] = copy.deepcopy(routes[node.pop("rds")["routeConfigName"]])
        if "edsClusterConfig" in node:
            del node["edsClusterConfig"], node["type"]
            node["loadAssignment"] = copy.deepcopy(endpoints[node["name"]])
            node["type"] = "STATIC"
            _dial(node["loadAssignment"], *service)
        node.pop("sdsConfig", None)
        if node.get("portValue") == 443:
            node["portValue"] = upstream_port
        if "dnsRefreshRate" in node:
            host, _, port = dns.rpartition(":")
            resolvers = {"@type": CARES, "resolvers": [socket_address(host, int(port))]}
            node["typedDnsResolverConfig"] = {"name": "cares", "typedConfig": resolvers}
    return found


def _dial(assignment: Node, host: str, port: int) -> None:
    for node in _nodes(assignment):
        if "socketAddress" in node:
            node["socketAddress"] = {"address": host, "portValue": port}


def _nodes(value: Any) -> Iterator[Node]:
    """Every mapping inside, the outer ones first."""
    if isinstance(value, dict):
        yield value
        for each in list(value.values()):
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)
