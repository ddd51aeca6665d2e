"""The renderer patches exactly the named parts of the shipped envoy.yaml, and nothing silently."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ext_authz.envoy_config import (
    LOOPBACK_RANGES,
    EnvoyConfigError,
    EnvoySettings,
    render,
    template_directory,
)

SHIPPED = template_directory()
SYNC = Path(__file__).parents[2] / "tools" / "sync_envoy_lua.py"


def rendered(**settings: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(render(EnvoySettings(**settings)))
    return loaded


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in items if item["name"] == name)


def listeners(config: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config["static_resources"]["listeners"]
    return found


def cluster(config: dict[str, Any], name: str) -> dict[str, Any]:
    return named(config["static_resources"]["clusters"], name)


def every(node: Any, key: str) -> Iterator[Any]:
    """Every value of `key`, however deep."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for child in node.values():
            yield from every(child, key)
    elif isinstance(node, list):
        for child in node:
            yield from every(child, key)


def ranges(config: dict[str, Any]) -> list[set[tuple[str, int]]]:
    return [
        {(each["address_prefix"], each["prefix_len"]) for each in one["ranges"]}
        for one in every(config, "resolved_address_filter")
    ]


def template(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the shipped templates with some text replaced."""
    text = (SHIPPED / "envoy.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "envoy.yaml").write_text(text)
    (tmp_path / "interception.yaml").write_text((SHIPPED / "interception.yaml").read_text())
    return tmp_path


def test_the_defaults_are_the_shipped_file_without_its_reverse_listener() -> None:
    shipped = yaml.safe_load((SHIPPED / "envoy.yaml").read_text())
    shipped["static_resources"]["listeners"].remove(named(listeners(shipped), "reverse"))
    assert rendered() == shipped


def test_with_both_listeners_the_shipped_file_comes_out_unchanged() -> None:
    shipped = yaml.safe_load((SHIPPED / "envoy.yaml").read_text())
    assert rendered(reverse="127.0.0.1:9090") == shipped


def test_listeners_are_moved_or_dropped() -> None:
    config = rendered(forward=None, reverse="[::1]:0")
    assert [one["name"] for one in listeners(config)] == ["reverse", "tunnel"]
    socket = named(listeners(config), "reverse")["address"]["socket_address"]
    assert socket == {"address": "::1", "port_value": 0}


def test_admin_address() -> None:
    admin = rendered(admin="127.0.0.1:0")["admin"]
    assert admin["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    assert admin["allow_paths"]


@pytest.mark.parametrize(
    ("target", "kind", "address"),
    [
        ("127.0.0.1:1", "STATIC", {"socket_address": {"address": "127.0.0.1", "port_value": 1}}),
        ("authz:2", "STRICT_DNS", {"socket_address": {"address": "authz", "port_value": 2}}),
        ("unix:/run/x.sock", "STATIC", {"pipe": {"path": "/run/x.sock"}}),
    ],
)
def test_service_address(target: str, kind: str, address: dict[str, Any]) -> None:
    service = cluster(rendered(ext_authz=target), "ext_authz")
    assert service["type"] == kind
    assert next(every(service["load_assignment"], "address")) == address


def test_every_tls_cluster_trusts_the_given_bundle() -> None:
    config = rendered(ca_file="/etc/lab.pem")
    trusted = list(every(config, "trusted_ca"))
    assert trusted == [{"filename": "/etc/lab.pem"}] * 2


def test_loopback_is_refused_unless_allowed() -> None:
    assert all(each >= LOOPBACK_RANGES for each in ranges(rendered()))


def test_allow_loopback_opens_loopback_only_and_everywhere() -> None:
    before = ranges(rendered())
    after = ranges(rendered(allow_loopback=True))
    assert after == [each - LOOPBACK_RANGES for each in before]
    assert all(("169.254.0.0", 16) in each and ("::ffff:0:0", 96) in each for each in after)


def test_every_use_of_the_dns_cache_stays_identical() -> None:
    config = rendered(dns_resolvers=("127.0.0.1:5353", "[::1]:53"), allow_loopback=True)
    caches = list(every(config, "dns_cache_config"))
    assert len(caches) > 4
    assert all(each == caches[0] for each in caches)
    resolvers = caches[0]["typed_dns_resolver_config"]["typed_config"]["resolvers"]
    assert resolvers[1] == {"socket_address": {"address": "::1", "port_value": 53}}


def test_without_interception_nothing_of_it_is_there() -> None:
    text = render(EnvoySettings(reverse="127.0.0.1:9090"))
    for trace in ("dynamic_resources", "ads", "on_demand_secret", "intercepted"):
        assert f'"{trace}"' not in text


def test_interception_adds_a_chain_that_is_judged_as_intercepted() -> None:
    config = rendered(intercept_https=True)
    tunnel = named(listeners(config), "tunnel")
    plain, opened = tunnel["filter_chains"]
    for chain, listener in ((plain, "tunnel"), (opened, "intercepted")):
        told = {"listener": listener, "credential_cache": "1"}
        assert list(every(chain["filters"], "context_extensions")) == [told]
        known = {"credential_cache": {"listener": listener}}
        assert list(every(chain["filters"], "filter_metadata")) == [known]
    assert opened["transport_socket_connect_timeout"] == "2.5s"
    assert config["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert config["node"]["id"]


def test_interception_is_matched_first_and_by_what_the_service_answered() -> None:
    tunnel = named(listeners(rendered(intercept_https=True)), "tunnel")
    first, second = tunnel["filter_chain_matcher"]["matcher_list"]["matchers"]
    assert first["on_match"]["action"]["typed_config"]["value"] == "intercepted"
    assert "tunnel.mode" in list(every(first["predicate"], "key"))
    assert second["on_match"]["action"]["typed_config"]["value"] == "http"


def test_the_intercepted_chain_filters_like_the_cleartext_chain() -> None:
    plain, opened = named(listeners(rendered(intercept_https=True)), "tunnel")["filter_chains"]
    text = json.dumps(opened["filters"]).replace('"intercepted"', '"tunnel"')
    assert json.loads(text) == plain["filters"]


def test_the_script_in_the_shipped_file_is_the_one_beside_it() -> None:
    done = subprocess.run([sys.executable, SYNC, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_changed_script_is_noticed_and_copied(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    sync = shutil.copy(SYNC, tmp_path / "tools")
    shutil.copytree(SHIPPED, tmp_path / "envoy")
    script = tmp_path / "envoy" / "credential_cache.lua"
    script.write_text(script.read_text() + "-- one more line\n")
    check = [sys.executable, sync, "--check"]
    assert subprocess.run(check, capture_output=True).returncode == 1
    assert subprocess.run([sys.executable, sync]).returncode == 0
    assert subprocess.run(check).returncode == 0
    code = set(
        every(yaml.safe_load((tmp_path / "envoy" / "envoy.yaml").read_text()), "inline_string")
    )
    assert any(each.count(script.read_text()) == 1 for each in code)


def test_every_http_listener_asks_with_the_credential_cache_in_front() -> None:
    config = rendered(reverse="127.0.0.1:0", intercept_https=True)
    chains = list(every(config["static_resources"]["listeners"], "http_filters"))
    assert len(chains) == 4
    for chain in chains:
        names = [each["name"] for each in chain]
        assert names[:2] == ["credential_cache", "envoy.filters.http.ext_authz"]


def test_access_log_is_off_unless_asked_for() -> None:
    assert rendered()["layered_runtime"]["layers"][0]["static_layer"]["access_log.percent"] == 0
    layers = rendered(access_log=True)["layered_runtime"]["layers"]
    assert layers[0]["static_layer"]["access_log.percent"] == 100


@pytest.mark.parametrize("address", ["8000", ":8000", "host:", "host:80x", "host:65536", "h:-1"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(EnvoyConfigError, match="host:port"):
        render(EnvoySettings(forward=address))


@pytest.mark.parametrize(
    ("change", "settings", "missing"),
    [
        (("name: forward", "name: ahead"), EnvoySettings(), "listener named 'forward'"),
        (("- name: ext_authz", "- name: other"), EnvoySettings(), "cluster named 'ext_authz'"),
        (("trusted_ca:", "ca:"), EnvoySettings(ca_file="/x"), "trusted_ca"),
        (("64:ff9b::7f00:0", "64:ff9b::7f01:0"), EnvoySettings(allow_loopback=True), "loopback"),
        (("access_log.percent: 0", "other: 0"), EnvoySettings(access_log=True), "access_log"),
        (("admin:\n", "administration:\n"), EnvoySettings(), "no admin"),
        (("filter_chain_matcher:", "m:"), EnvoySettings(intercept_https=True), "matcher"),
    ],
)
def test_a_missing_part_is_an_error_that_names_it(
    tmp_path: Path, change: tuple[str, str], settings: EnvoySettings, missing: str
) -> None:
    with pytest.raises(EnvoyConfigError, match=missing):
        render(settings, template(tmp_path, change))


@pytest.mark.parametrize("text", ["[]", "a: [", ""])
def test_a_broken_template_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "envoy.yaml").write_text(text)
    with pytest.raises(EnvoyConfigError, match=r"envoy\.yaml"):
        render(EnvoySettings(), tmp_path)


def test_a_missing_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvoyConfigError, match="cannot read"):
        render(EnvoySettings(), tmp_path)
