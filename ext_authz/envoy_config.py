"""Renders Envoy's bootstrap configuration: envoy/envoy.yaml with this run's settings put in.

The file stays the one description of the data plane; here only named parts of it are patched.
"""

from __future__ import annotations

import copy
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ext_authz.errors import StartError

__all__ = ["EnvoyConfigError", "EnvoySettings", "render", "template_directory"]

TEMPLATE = "envoy.yaml"
INTERCEPTION = "interception.yaml"

LOOPBACK_RANGES = frozenset({("127.0.0.0", 8), ("::1", 128), ("64:ff9b::7f00:0", 104)})
"""The ranges of `resolved_address_filter` that `upstream.allow_loopback` opens, and no others."""

_CARES = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"

_Node = dict[str, Any]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML has it: ten times as fast, which counts at every start."""


class EnvoyConfigError(StartError):
    """The template lacks a part that must be patched, or a setting cannot be expressed in it."""


@dataclass(frozen=True)
class EnvoySettings:
    """What one run changes in envoy.yaml. Addresses are `host:port`, IPv6 hosts in brackets."""

    forward: str | None = "127.0.0.1:8000"
    """Forward listener; None drops it."""
    reverse: str | None = None
    """Reverse listener; None drops it, as when no upstream is configured."""
    admin: str = "127.0.0.1:9901"
    ext_authz: str = "127.0.0.1:9191"
    """The service: `host:port` (an address or a DNS name) or `unix:PATH`."""
    ca_file: str | None = None
    """PEM bundle that upstream certificates are verified with; None keeps the template's."""
    allow_loopback: bool = False
    dns_resolvers: tuple[str, ...] = ()
    """Resolvers for destinations, `address:port`; empty means the system's."""
    intercept_https: bool = False
    access_log: bool = False
    """One JSON line per request on stdout, without headers and query."""


def render(settings: EnvoySettings, template_dir: Path | None = None) -> str:
    """Returns the bootstrap as JSON, which Envoy takes as a `.json` or `.yaml` file alike.

    JSON because PyYAML (YAML 1.1) and Envoy's yaml-cpp (1.2) differ on what a bare word means.
    Raises EnvoyConfigError if the template cannot be read or lacks a part to patch.
    """
    directory = template_directory() if template_dir is None else template_dir
    config = _load(directory / TEMPLATE)
    if settings.intercept_https:
        _add_interception(config, _load(directory / INTERCEPTION))
    _patch_listener(config, "forward", settings.forward)
    _patch_listener(config, "reverse", settings.reverse)
    _at(config, "admin")["address"] = _address(settings.admin)
    _patch_service(config, settings.ext_authz)
    if settings.ca_file is not None:
        _patch_trust(config, settings.ca_file)
    _patch_dns(config, settings)
    if settings.access_log:
        layer = _named(_at(config, "layered_runtime", "layers"), "settings", "runtime layer")
        _replace(_at(layer, "static_layer"), "access_log.percent", 100)
    return json.dumps(config, indent=2) + "\n"


def template_directory() -> Path:
    """Where the templates lie: inside an installed package, else `envoy/` of the checkout."""
    package = Path(__file__).resolve().parent
    for directory in (package / "_envoy", package.parent / "envoy"):
        if (directory / TEMPLATE).is_file():
            return directory
    raise EnvoyConfigError(f"{TEMPLATE} is missing beside the package {package}; reinstall it")


def _load(path: Path) -> _Node:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        if isinstance(loaded, dict):
            # Through JSON, so that parts repeated by alias become separate and are patched each.
            return dict(json.loads(json.dumps(loaded)))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise EnvoyConfigError(f"cannot read the Envoy template {path}: {error}") from error
    raise EnvoyConfigError(f"the Envoy template {path} is not a mapping")


def _patch_listener(config: _Node, name: str, address: str | None) -> None:
    listeners = _at(config, "static_resources", "listeners")
    listener = _named(listeners, name, "listener")
    if address is None:
        listeners.remove(listener)
    else:
        _replace(listener, "address", _address(address))


def _patch_service(config: _Node, target: str) -> None:
    cluster = _named(_at(config, "static_resources", "clusters"), "ext_authz", "cluster")
    endpoint = _at(cluster, "load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint")
    _replace(endpoint, "address", _address(target))
    if not target.startswith("unix:") and not _is_ip(_split(target)[0]):
        _replace(cluster, "type", "STRICT_DNS")


def _patch_trust(config: _Node, ca_file: str) -> None:
    for trusted in _holders(_at(config, "static_resources", "clusters"), "trusted_ca"):
        trusted["trusted_ca"] = {"filename": ca_file}


def _patch_dns(config: _Node, settings: EnvoySettings) -> None:
    for holder in _holders(config, "dns_cache_config"):
        cache = holder["dns_cache_config"]
        if settings.allow_loopback:
            _open_loopback(_at(cache, "resolved_address_filter"))
        if settings.dns_resolvers:
            cache["typed_dns_resolver_config"] = _resolver(settings.dns_resolvers)


def _open_loopback(address_filter: _Node) -> None:
    ranges = _at(address_filter, "ranges")
    present = {(each.get("address_prefix"), each.get("prefix_len")) for each in ranges}
    if missing := LOOPBACK_RANGES - present:
        raise EnvoyConfigError(f"the Envoy template does not refuse loopback {sorted(missing)}")
    address_filter["ranges"] = [
        each
        for each in ranges
        if (each["address_prefix"], each["prefix_len"]) not in LOOPBACK_RANGES
    ]


def _resolver(resolvers: tuple[str, ...]) -> _Node:
    addresses = [_address(resolver) for resolver in resolvers]
    return {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {"@type": _CARES, "resolvers": addresses},
    }


def _add_interception(config: _Node, addition: _Node) -> None:
    """Puts interception.yaml's matcher first, its chain last and its top-level keys in place."""
    config.update(_at(addition, "bootstrap"))
    tunnel = _named(_at(config, "static_resources", "listeners"), "tunnel", "listener")
    chains = _at(tunnel, "filter_chains")
    filters = copy.deepcopy(_at(_named(chains, "http", "filter chain"), "filters"))
    for extensions in _holders(filters, "context_extensions"):
        _replace(extensions["context_extensions"], "listener", "intercepted")
    for metadata in _holders(filters, "filter_metadata"):
        _replace(_at(metadata, "filter_metadata", "credential_cache"), "listener", "intercepted")
    for manager in _holders(filters, "stat_prefix"):
        manager["stat_prefix"] = "intercepted"
    chains.append({**_at(addition, "filter_chain"), "filters": filters})
    matchers = _at(tunnel, "filter_chain_matcher", "matcher_list", "matchers")
    matchers.insert(0, _at(addition, "matcher"))


def _address(text: str) -> _Node:
    """Envoy's `core.v3.Address` for `host:port` or `unix:PATH`."""
    if text.startswith("unix:"):
        return {"pipe": {"path": text.removeprefix("unix:")}}
    host, port = _split(text)
    return {"socket_address": {"address": host, "port_value": port}}


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise EnvoyConfigError(f"{text!r} is not an address of the form host:port")
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _at(node: Any, *path: str | int) -> Any:
    """The part of the template at `path`; raises EnvoyConfigError where it ends."""
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            where = ".".join(str(each) for each in path)
            raise EnvoyConfigError(f"the Envoy template has no {where}") from None
    return node


def _replace(node: _Node, key: str, value: Any) -> None:
    _at(node, key)
    node[key] = value


def _named(items: list[_Node], name: str, kind: str) -> _Node:
    for item in items:
        if item.get("name") == name:
            return item
    raise EnvoyConfigError(f"the Envoy template has no {kind} named {name!r}")


def _holders(node: Any, key: str) -> list[_Node]:
    """Every mapping below `node` that has `key`, outermost first; raises if there is none."""
    found = list(_walk(node, key))
    if not found:
        raise EnvoyConfigError(f"the Envoy template has no {key}")
    return found


def _walk(node: Any, key: str) -> Iterator[_Node]:
    if isinstance(node, dict):
        if key in node:
            yield node
        for child in node.values():
            yield from _walk(child, key)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child, key)
