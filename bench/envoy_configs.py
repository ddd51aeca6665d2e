"""Envoy configurations of the benchmark: bare and gcp_authn, made from ours, and the upstream's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ext_authz.envoy_config import EnvoySettings, render

_Node = dict[str, Any]
_TYPE = "type.googleapis.com/envoy.extensions."
_AUTHN = "envoy.filters.http.gcp_authn"
_OURS = ("ext_authz", ".lua.", "set_filter_state")  # what only the sidecar's filters need


def bare(ca_file: Path, token: str) -> _Node:
    """Return our bootstrap without ext_authz, Lua and what only they need, and a fixed header.

    The header is as long as a token, so that the same bytes go upstream.
    """
    settings = EnvoySettings(
        forward="127.0.0.1:0", admin="127.0.0.1:0", ca_file=str(ca_file), allow_loopback=True
    )
    config: _Node = json.loads(render(settings))
    resources = config["static_resources"]
    resources["listeners"] = [_named(resources["listeners"], "forward")]
    resources["clusters"] = [_named(resources["clusters"], name) for name in ("tls", "tls_http1")]
    manager = _manager(config)
    manager["http_filters"] = [each for each in manager["http_filters"] if not _is_ours(each)]
    host = manager["route_config"]["virtual_hosts"][0]
    host.pop("typed_per_filter_config", None)
    host.pop("metadata", None)
    host["routes"] = [_open(_named(host["routes"], name)) for name in ("tls_websocket", "tls")]
    host["request_headers_to_add"] = [
        {
            "header": {"key": "authorization", "value": f"Bearer {token}"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    return config


def gcp_authn(base: _Node, metadata: str, upstream: str | None, audience: str) -> _Node:
    """Return `bare` with Envoy's own filter and its cache on.

    With `upstream` (host:port) the cluster is static, as in Envoy's documentation: one destination.
    Without, it stays dynamic, which does the same work as ours with one audience for all.
    """
    config: _Node = json.loads(json.dumps(base))
    clusters = config["static_resources"]["clusters"]
    cluster = _named(clusters, "tls")
    manager = _manager(config)
    if upstream:
        del cluster["cluster_type"]
        cluster |= {"type": "STATIC", "lb_policy": "ROUND_ROBIN"}
        cluster["load_assignment"] = _assignment("tls", upstream)
        filters = manager["http_filters"]
        filters.remove(_named(filters, "dynamic_forward_proxy"))
    audience_type = _TYPE + "filters.http.gcp_authn.v3.Audience"
    cluster["metadata"] = {
        "typed_filter_metadata": {_AUTHN: {"@type": audience_type, "url": audience}}
    }
    clusters.append(_static("metadata", metadata))
    manager["http_filters"].insert(
        0,
        {
            "name": _AUTHN,
            "typed_config": {
                "@type": _TYPE + "filters.http.gcp_authn.v3.GcpAuthnFilterConfig",
                "cluster": "metadata",
                "timeout": "5s",
                "cache_config": {"cache_size": 100},
            },
        },
    )
    del manager["route_config"]["virtual_hosts"][0]["request_headers_to_add"]
    return config


def upstream(certificate: Path, key: Path) -> _Node:
    """Return an Envoy that answers everything itself with 200, over TLS."""
    reply: _Node = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "hello\n"}},
    }
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": _file(key)}
    manager = {
        "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [reply]}]},
        "http2_protocol_options": {"max_concurrent_streams": 1000},
        "http_filters": [_router()],
    }
    context = {
        "@type": _TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"]},
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }
    listener = {"name": "forward", "address": _socket("127.0.0.1:0"), "filter_chains": [chain]}
    return {
        "admin": {"address": _socket("127.0.0.1:0")},
        "static_resources": {"listeners": [listener]},
    }


def _is_ours(http_filter: _Node) -> bool:
    text = json.dumps(http_filter)
    return any(word in text for word in _OURS)


def _open(route: _Node) -> _Node:
    match = {key: value for key, value in route["match"].items() if key != "dynamic_metadata"}
    return {**route, "match": match}


def _manager(config: _Node) -> _Node:
    listener = config["static_resources"]["listeners"][0]
    found: _Node = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _named(items: list[_Node], name: str) -> _Node:
    return next(item for item in items if item.get("name") == name)


def _router() -> _Node:
    kind = _TYPE + "filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind}}


def _file(path: Path) -> _Node:
    return {"filename": str(path)}


def _socket(address: str) -> _Node:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _assignment(name: str, address: str) -> _Node:
    endpoint = {"endpoint": {"address": _socket(address)}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}


def _static(name: str, address: str) -> _Node:
    return {"name": name, "type": "STATIC", "load_assignment": _assignment(name, address)}
