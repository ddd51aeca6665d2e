"""Configuration: what each key means, and what is higher in precedence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme

from ext_authz.config import Overrides, read_settings
from ext_authz.destination import Destination
from ext_authz.rules import Header
from ext_authz.settings import (
    AutoCredential,
    EnvSecret,
    FileSecret,
    KeyCredential,
    MetadataCredential,
    NoCredential,
    Settings,
    StaticCredential,
)

FULL = """\
credentials:
  default: metadata
  ci: {service_account_key: /secrets/key.json}
  ci_env: {service_account_key: {env: KEY}}
  ci_file: {service_account_key: {file: /secrets/key.json}}
  athens: {static_token: {env: MY_AUTH_TOKEN}}
  file: {static_token: {file: /secrets/token}}
  nobody: none
  adc: auto
destinations:
  - match: "*.run.app"
  - match: "*.A.run.app:8443"
    audience: "aud-{host}"
    credential: ci
    header: x-serverless-authorization
  - match: athens.example.com:8443
    credential: athens
    header: auto
reverse_proxy: {upstream: https://athens-abc.a.run.app}
other_destinations: deny
tokens: {refresh: lazy}
upstream: {ca_file: CA, allow_loopback: true, dns_resolvers: ["127.0.0.1:5353"]}
trusted_endpoints: ["https://iam.example"]
"""
ENVIRON = {"KEY": "{}", "MY_AUTH_TOKEN": " tok \n", "HOME": "/home/me"}


def good(path: Path | None, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    settings, problems = read_settings(path, Overrides(**overrides), environ or {})
    assert [str(problem) for problem in problems] == []
    return settings


PEM = trustme.CA().cert_pem.bytes().decode()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    authority = tmp_path / "ca.pem"
    authority.write_text(PEM)
    path = tmp_path / "full.yaml"
    path.write_text(FULL.replace("CA", str(authority)))
    return path


def test_without_a_file_run_app_works_with_application_default_credentials() -> None:
    settings = good(None, {"HOME": "/home/me"})
    [rule] = settings.rules
    assert (rule.match, rule.credential, rule.audience) == (
        "*.run.app",
        "default",
        "https://{host}",
    )
    assert rule.header is None
    well_known = Path("/home/me/.config/gcloud/application_default_credentials.json")
    assert settings.credentials["default"].credential == AutoCredential(None, well_known)
    assert settings.pass_others
    assert settings.refresh_ahead
    assert not settings.allow_loopback
    assert (settings.upstream, settings.ca_file, settings.metadata_host) == (None, None, "")


@pytest.mark.parametrize("content", ["# nothing yet\n", "{}\n"])
def test_a_file_without_keys_changes_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    assert good(path) == good(None)


def test_every_credential_is_read(full: Path) -> None:
    found = {name: one.credential for name, one in good(full, ENVIRON).credentials.items()}
    assert isinstance(found.pop("adc"), AutoCredential)
    assert found == {
        "default": MetadataCredential(),
        "ci": KeyCredential(FileSecret(Path("/secrets/key.json"))),
        "ci_env": KeyCredential(EnvSecret("KEY", "{}")),
        "ci_file": KeyCredential(FileSecret(Path("/secrets/key.json"))),
        "athens": StaticCredential(EnvSecret("MY_AUTH_TOKEN", "tok")),
        "file": StaticCredential(FileSecret(Path("/secrets/token"))),
        "nobody": NoCredential(),
    }


def test_a_credential_knows_where_it_was_written(full: Path) -> None:
    named = good(full, ENVIRON).credentials["athens"]
    assert (named.name, named.file, named.line) == ("athens", str(full), 6)


def test_every_rule_is_read(full: Path) -> None:
    plain, suffix, static, *_ = good(full, ENVIRON).rules
    assert (plain.host, plain.port, plain.is_suffix) == ("run.app", 443, True)
    assert (suffix.host, suffix.port, suffix.credential) == ("a.run.app", 8443, "ci")
    assert (suffix.audience, suffix.header) == ("aud-{host}", Header.SERVERLESS)
    assert (static.credential, static.audience, static.header) == ("athens", None, None)


def test_every_other_key_is_read(full: Path) -> None:
    settings = good(full, ENVIRON | {"GCE_METADATA_HOST": "127.0.0.1:1"})
    assert settings.upstream == Destination("athens-abc.a.run.app")
    assert settings.ca_file == full.parent / "ca.pem"
    assert settings.dns_resolvers == ("127.0.0.1:5353",)
    assert settings.trusted_endpoints == ("https://iam.example",)
    assert settings.metadata_host == "127.0.0.1:1"
    assert (settings.pass_others, settings.refresh_ahead) == (False, False)
    assert settings.allow_loopback
    assert settings.policy().upstream == settings.upstream


def test_the_files_that_call_for_a_reload_are_named(full: Path) -> None:
    assert set(good(full, ENVIRON).files()) >= {Path("/secrets/key.json"), Path("/secrets/token")}


def test_flags_win_over_the_file(full: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(PEM)
    settings = good(
        full,
        ENVIRON,
        upstream="https://other.run.app:443/",
        refresh="ahead",
        other_destinations="pass",
        ca_file=str(other),
        allow_loopback=False,
        dns_resolvers="10.0.0.1:53,10.0.0.2:53",
    )
    assert settings.upstream == Destination("other.run.app")
    assert settings.refresh_ahead
    assert settings.pass_others
    assert settings.ca_file == other
    assert not settings.allow_loopback
    assert settings.dns_resolvers == ("10.0.0.1:53", "10.0.0.2:53")


def test_what_no_flag_says_is_what_the_file_says(full: Path) -> None:
    assert good(full, ENVIRON, refresh="ahead").pass_others is False


def test_application_credentials_of_the_environment_come_before_gclouds() -> None:
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "/k.json", "CLOUDSDK_CONFIG": "/gcloud"}
    credential = good(None, environ).credentials["default"].credential
    assert credential == AutoCredential(
        Path("/k.json"), Path("/gcloud/application_default_credentials.json")
    )


def test_an_upstream_without_a_rule_gets_one_and_one_with_a_rule_keeps_it(tmp_path: Path) -> None:
    settings = good(None, upstream="https://private.example:8443")
    assert [rule.match for rule in settings.rules] == ["*.run.app", "private.example:8443"]
    assert settings.rules[1].credential == "default"
    assert len(good(None, upstream="https://a.run.app").rules) == 1


def test_a_list_without_destinations_turns_the_built_in_rule_off(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("destinations: []\n")
    assert good(path).rules == ()


def test_no_representation_of_settings_shows_a_secret(full: Path) -> None:
    environ = ENVIRON | {"MY_AUTH_TOKEN": "sentinel", "KEY": "sentinel"}
    settings = good(full, environ)
    assert "sentinel" not in repr(settings)
    assert "sentinel" not in str(settings.credentials["athens"].credential)
