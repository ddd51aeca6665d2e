"""deploy/istio by hand: what Istio makes of it for the gateway and for the service's proxy.

Istio's own translation needs a running istiod. The filters here are those that it writes for a
CUSTOM AuthorizationPolicy (RBAC as a shadow, then ext_authz by its verdict) and for an ALLOW one;
every value in them is read from the manifests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.deploy.foreign_envoy import CARES, Node, socket_address
from tests.deploy.kustomize import DEPLOY, named, render

TYPE = "type.googleapis.com/envoy"
NETWORK_FILTERS = f"{TYPE}.extensions.filters.network"
SHADOW = "istio_ext_authz_"
GATEWAY = "gateway"


def listeners(inbound: Path) -> list[Node]:
    """The gateway's listener, and that of the service's proxy at the Unix socket `inbound`."""
    return [
        _listener(
            GATEWAY, socket_address("127.0.0.1", 0), [*_authorizers(), _callers()], _routes()
        ),
        {
            **_listener(
                "inbound", {"pipe": {"path": str(inbound)}}, [_service_policy()], _to("serve")
            ),
        },
    ]


def clusters(
    inbound: Path, service: tuple[str, int], upstream: tuple[str, int], dns: str
) -> list[Node]:
    """Ways to the service's proxy, from there to the service, and to the destination."""
    host = named(render("istio"), "ServiceEntry")["spec"]["hosts"][0]
    rule = _destination_rule(host)
    resolver_host, _, resolver_port = dns.rpartition(":")
    resolvers = [socket_address(resolver_host, int(resolver_port))]
    cares = {"@type": CARES, "resolvers": resolvers}
    return [
        _cluster(
            "authorizer", {"pipe": {"path": str(inbound)}}, http2=True, tls=_tls("gateway", "mesh")
        ),
        _cluster("serve", socket_address(*service), http2=True),
        {
            **_cluster(
                "destination",
                socket_address(host, upstream[1]),
                tls={**_tls("", "system", *rule["subjectAltNames"]), "sni": rule["sni"]},
            ),
            "type": "STRICT_DNS",
            "typedDnsResolverConfig": {"name": "cares", "typedConfig": cares},
        },
    ]


def _destination_rule(host: str) -> Node:
    for each in render("istio"):
        if each["kind"] == "DestinationRule" and each["spec"]["host"] == host:
            found: Node = each["spec"]["trafficPolicy"]["portLevelSettings"][0]["tls"]
            return found
    raise LookupError(host)


def _authorizers() -> list[Node]:
    """The filters of the CUSTOM policy and its extension provider."""
    values = yaml.safe_load((DEPLOY / "istio" / "mesh-config.yaml").read_text())
    provider = values["meshConfig"]["extensionProviders"][0]["envoyExtAuthzGrpc"]
    (policy,) = (each for each in _policies("idtoken-egress") if each["action"] == "CUSTOM")
    assert policy["rules"] == [{}], "a condition would let requests go unasked"
    rules = {
        "policies": {
            "istio-ext-authz-tokens": {
                "permissions": [{"any": True}],
                "principals": [{"any": True}],
            }
        }
    }
    return [
        {
            "name": "envoy.filters.http.rbac",
            "typedConfig": {
                "@type": f"{TYPE}.extensions.filters.http.rbac.v3.RBAC",
                "shadowRules": {"action": "DENY", **rules},
                "shadowRulesStatPrefix": SHADOW,
            },
        },
        {
            "name": "envoy.filters.http.ext_authz",
            "typedConfig": {
                "@type": f"{TYPE}.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transportApiVersion": "V3",
                "failureModeAllow": provider["failOpen"],
                "statusOnError": {"code": int(provider["statusOnError"])},
                "grpcService": {
                    "envoyGrpc": {"clusterName": "authorizer", "authority": provider["service"]},
                    "timeout": provider["timeout"],
                },
                "filterEnabledMetadata": {
                    "filter": "envoy.filters.http.rbac",
                    "path": [{"key": f"{SHADOW}shadow_effective_policy_id"}],
                    "value": {"stringMatch": {"prefix": "istio-ext-authz"}},
                },
            },
        },
    ]


def _callers() -> Node:
    """Which hosts may be asked for; who asks is the mesh's mTLS, which is not here."""
    (policy,) = (each for each in _policies("idtoken-egress") if each["action"] == "ALLOW")
    hosts = policy["rules"][0]["to"][0]["operation"]["hosts"]
    return _allow([_or([_header(":authority", host) for host in hosts])], [{"any": True}])


def _service_policy() -> Node:
    """Who may ask the service for what."""
    (policy,) = (each for each in _policies("idtoken-sidecar") if each["action"] == "ALLOW")
    rule = next(each for each in policy["rules"] if "from" in each)
    principal = rule["from"][0]["source"]["principals"][0].rpartition("/")[2]
    paths = [_header(":path", path) for path in rule["to"][0]["operation"]["paths"]]
    return _allow([_or(paths)], [{"authenticated": {"principalName": {"exact": principal}}}])


def _policies(namespace: str) -> list[Node]:
    return [
        each["spec"]
        for each in render("istio")
        if each["kind"] == "AuthorizationPolicy" and each["metadata"]["namespace"] == namespace
    ]


def _allow(permissions: list[Node], principals: list[Node]) -> Node:
    policy = {"permissions": permissions, "principals": principals}
    rules = {"action": "ALLOW", "policies": {"allow": policy}}
    kind = f"{TYPE}.extensions.filters.http.rbac.v3.RBAC"
    return {"name": "rbac", "typedConfig": {"@type": kind, "rules": rules}}


def _or(rules: list[Node]) -> Node:
    return {"orRules": {"rules": rules}}


def _header(name: str, value: str) -> Node:
    """One matcher of Istio's: exact, or with a star at the end."""
    match = {"prefix": value[:-1]} if value.endswith("*") else {"exact": value}
    return {"header": {"name": name, "stringMatch": match}}


def _routes() -> Node:
    """The part of the VirtualService for the gateway."""
    virtual = named(render("istio"), "VirtualService")["spec"]
    (route,) = (each for each in virtual["http"] if each["match"][0]["gateways"] == ["egress"])
    assert route["route"][0]["destination"]["host"] == virtual["hosts"][0]
    domains = [each for host in virtual["hosts"] for each in (host, f"{host}:*")]
    return {
        **_to("destination"),
        "virtualHosts": [{**_to("destination")["virtualHosts"][0], "domains": domains}],
    }


def _to(cluster: str) -> Node:
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {
        "name": cluster,
        "virtualHosts": [{"name": cluster, "domains": ["*"], "routes": [route]}],
    }


def _listener(name: str, address: Node, filters: list[Node], routes: Node) -> Node:
    router = {
        "name": "router",
        "typedConfig": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": f"{NETWORK_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": name,
        "routeConfig": routes,
        "httpFilters": [*filters, router],
    }
    chain: Node = {"filters": [{"name": "http", "typedConfig": manager}]}
    if name == "inbound":
        context: Any = {"@type": f"{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"}
        context |= {
            "requireClientCertificate": True,
            "commonTlsContext": _secrets("service", "mesh"),
        }
        chain["transportSocket"] = {"name": "tls", "typedConfig": context}
    return {"name": name, "address": address, "filterChains": [chain]}


def _secrets(own: str, trusted: str, *names: str) -> Node:
    found: Node = {"validationContextSdsSecretConfig": {"name": trusted}}
    if names:
        sans = [{"sanType": "DNS", "matcher": {"exact": name}} for name in names]
        found = {
            "combinedValidationContext": {
                "defaultValidationContext": {"matchTypedSubjectAltNames": sans},
                **found,
            }
        }
    return {**found, "tlsCertificateSdsSecretConfigs": [{"name": own}] if own else []}


def _tls(own: str, trusted: str, *names: str) -> Node:
    kind = f"{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {"@type": kind, "commonTlsContext": _secrets(own, trusted, *names)}


def _cluster(name: str, address: Node, *, http2: bool = False, tls: Node | None = None) -> Node:
    endpoint = {"endpoint": {"address": address}}
    found: Node = {
        "name": name,
        "type": "STATIC",
        "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": [endpoint]}]},
    }
    if tls:
        found["transportSocket"] = {"name": "tls", "typedConfig": tls}
    if http2:
        kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {
            "@type": f"type.googleapis.com/{kind}",
            "explicitHttpConfig": {"http2ProtocolOptions": {}},
        }
        found["typedExtensionProtocolOptions"] = {kind: options}
    return found
