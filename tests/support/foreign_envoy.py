"""An Envoy of somebody else: hand-written, one filter, and words of its own on each route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ext_authz.envoy_config import EnvoySettings
from ext_authz.standins.certificates import LeafCertificate
from tests.support.envoy import Envoy
from tests.support.sidecar import Address

_TYPES = "type.googleapis.com/envoy.extensions"
_HCM = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_HTTP = "upstreams.http.v3.HttpProtocolOptions"
_TLS = "transport_sockets.tls.v3.UpstreamTlsContext"


class ForeignEnvoy(Envoy):
    """Asks `ext_authz` about each request, and sends it to `upstream` (TLS) whatever its host is.

    `routes` maps a path prefix to the context_extensions of its route. With `ca_file` it asks over
    TLS, as `client` if that is given.
    """

    def __init__(
        self,
        directory: Path,
        ext_authz: str,
        upstream: tuple[Address, str, Path],
        routes: Mapping[str, Mapping[str, str]],
        *,
        ca_file: Path | None = None,
        client: LeafCertificate | None = None,
    ) -> None:
        super().__init__(directory, EnvoySettings())
        address, name, upstream_ca = upstream
        host, _, port = ext_authz.rpartition(":")
        asked = _cluster("ext_authz", (host, int(port)), "h2")
        if ca_file is not None:
            asked["transport_socket"] = _tls("localhost", ca_file, client)
        served = _cluster("upstream", address, "h1")
        served["transport_socket"] = _tls(name, upstream_ca)
        admin = {"address": _socket(("127.0.0.1", 0))}
        resources = {"listeners": [_listener(routes)], "clusters": [asked, served]}
        (directory / "envoy.json").write_text(
            json.dumps({"admin": admin, "static_resources": resources})
        )


def _listener(routes: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    grpc_service = {"envoy_grpc": {"cluster_name": "ext_authz"}, "timeout": "6s"}
    settings = {"grpc_service": grpc_service, "transport_api_version": "V3"}
    filters = [
        _named("envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", settings),
        _named("envoy.filters.http.router", "filters.http.router.v3.Router", {}),
    ]
    host = {"name": "all", "domains": ["*"], "routes": [_route(*one) for one in routes.items()]}
    manager = {
        "stat_prefix": "forward",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [host]},
    }
    chain = {"filters": [_named("http", _HCM, manager)]}
    return {"name": "forward", "address": _socket(("127.0.0.1", 0)), "filter_chains": [chain]}


def _route(prefix: str, words: Mapping[str, str]) -> dict[str, Any]:
    settings = {"check_settings": {"context_extensions": dict(words)}}
    kind = "filters.http.ext_authz.v3.ExtAuthzPerRoute"
    per_route = {"@type": f"{_TYPES}.{kind}", **settings}
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream"},
        "typed_per_filter_config": {"envoy.filters.http.ext_authz": per_route},
    }


def _cluster(name: str, address: Address, protocol: str) -> dict[str, Any]:
    field = {"h1": "http_protocol_options", "h2": "http2_protocol_options"}[protocol]
    options = {"@type": f"{_TYPES}.{_HTTP}", "explicit_http_config": {field: {}}}
    endpoint = {"endpoint": {"address": _socket(address)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": assignment,
        "typed_extension_protocol_options": {f"envoy.extensions.{_HTTP}": options},
    }


def _tls(name: str, ca_file: Path, client: LeafCertificate | None = None) -> dict[str, Any]:
    names = [{"san_type": "DNS", "matcher": {"exact": name}}]
    trust = {"trusted_ca": {"filename": str(ca_file)}, "match_typed_subject_alt_names": names}
    common: dict[str, Any] = {"validation_context": trust}
    if client is not None:
        chain = {"filename": str(client.certificate)}
        common["tls_certificates"] = [
            {"certificate_chain": chain, "private_key": {"filename": str(client.key)}}
        ]
    return _named("tls", _TLS, {"sni": name, "common_tls_context": common})


def _named(name: str, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **settings}}


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}
