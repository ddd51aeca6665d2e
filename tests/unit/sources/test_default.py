"""`auto` and the building of sources: Google's order, and no falling from one into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ext_authz.config import Overrides, read_settings
from ext_authz.errors import ConfigError, SourceError
from ext_authz.settings import AutoCredential, Settings
from ext_authz.sources import Source
from ext_authz.sources.build import load_all
from ext_authz.sources.default import default_source
from ext_authz.sources.endpoints import EndpointGuard
from ext_authz.sources.worker import SourceRunner
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import SigningKey
from ext_authz.tokens import Fetched, TokenKey
from tests.unit.fakes import KEY, SENTINEL


@pytest.fixture
def key_file(tmp_path: Path, key: SigningKey) -> Path:
    path = tmp_path / "key.json"
    info = {
        "type": "service_account",
        "client_email": "robot@x.iam.gserviceaccount.com",
        "private_key": key.private_pem,
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    path.write_text(json.dumps(info))
    return path


def chosen(key_file: Path | None, well_known: Path | None) -> Source:
    return default_source(AutoCredential(key_file, well_known), "meta:1", EndpointGuard())


def test_the_named_file_comes_first(key_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "adc.json"
    broken.write_text("{}")
    source = chosen(key_file, broken)
    assert source.kind == "service account key"
    assert source.found.endswith(str(key_file))
    assert "GOOGLE_APPLICATION_CREDENTIALS" in source.found


def test_gclouds_file_comes_second(key_file: Path) -> None:
    source = chosen(None, key_file)
    assert (source.kind, source.found) == ("service account key", str(key_file))


def test_the_metadata_server_comes_last(tmp_path: Path) -> None:
    source = chosen(None, tmp_path / "absent.json")
    assert (source.kind, source.found) == ("metadata server", "meta:1")
    assert chosen(None, None).kind == "metadata server"


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", "{}", '{"type": 7}', '{"type": "external_account"}', '{"type": "gdch"}'],
)
def test_a_named_file_that_cannot_be_used_is_an_error_and_no_reason_to_ask_elsewhere(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "named.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError) as caught:
        chosen(path, None)
    assert caught.value.permanent
    assert str(path) in caught.value.message


@pytest.mark.parametrize("kind", ["authorized_user", "external_account", "impersonated"])
def test_every_type_of_file_is_recognised_by_either_name(
    google: GoogleStandIn, tmp_path: Path, kind: str
) -> None:
    user = google.authorized_user_file()
    contents: dict[str, tuple[dict[str, Any], str]] = {
        "authorized_user": (user, "user login"),
        "external_account": (
            google.external_account_file(impersonate="robot@p.iam.gserviceaccount.com"),
            "workload identity federation",
        ),
        "impersonated": (google.impersonated_file("robot@p.x", user), "impersonation"),
    }
    content, expected = contents[kind]
    path = tmp_path / "adc.json"
    path.write_text(json.dumps(content))
    for source in (chosen(path, None), chosen(None, path)):
        assert source.kind == expected
        assert str(path) in source.found


def test_the_gcloud_command_comes_only_where_no_file_is(key_file: Path, tmp_path: Path) -> None:
    gcloud = tmp_path / "gcloud"
    auto = AutoCredential(None, tmp_path / "absent", gcloud)
    assert default_source(auto, "", EndpointGuard()).kind == "gcloud login"
    auto = AutoCredential(None, key_file, gcloud)
    assert default_source(auto, "", EndpointGuard()).kind == "service account key"
    broken = tmp_path / "broken"
    broken.write_text("{}")
    with pytest.raises(SourceError):
        default_source(AutoCredential(broken, key_file, gcloud), "", EndpointGuard())


def test_each_kind_of_the_configuration_is_built(
    google: GoogleStandIn, tmp_path: Path, key_file: Path
) -> None:
    federation = tmp_path / "wif.json"
    federation.write_text(json.dumps(google.external_account_file()))
    text = f"""\
credentials:
  default: {{impersonate: a@p.x, source: key, iam_endpoint: {google.public_url}}}
  key: {{service_account_key: {key_file}}}
  wif: {{workload_identity: {federation}, impersonate: robot@p.x}}
  chain: {{impersonate: b@p.x, source: wif}}
"""
    _, sources = loaded(tmp_path, text)
    assert {name: source.kind for name, source in sources.items()} == {
        "default": "impersonation",
        "key": "service account key",
        "wif": "workload identity federation",
        "chain": "impersonation",
    }
    assert "credential 'key': service account key" in sources["default"].found


def test_a_federation_without_an_account_is_a_problem_of_its_line(
    google: GoogleStandIn, tmp_path: Path
) -> None:
    federation = tmp_path / "wif.json"
    federation.write_text(json.dumps(google.external_account_file()))
    with pytest.raises(ConfigError, match=r"c.yaml:2: credentials.wif: .*federation alone"):
        loaded(tmp_path, f"credentials:\n  wif: {{workload_identity: {federation}}}\n")
    with pytest.raises(ConfigError, match=r"c.yaml:2: credentials.g: no gcloud on PATH"):
        loaded(tmp_path, "credentials:\n  g: gcloud\n", PATH="/nowhere")


def test_gclouds_file_that_cannot_be_used_is_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "adc.json"
    path.write_text("{}")
    with pytest.raises(SourceError):
        chosen(None, path)


def loaded(tmp_path: Path, text: str, **environ: str) -> tuple[Settings, dict[str, Source]]:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_all(lambda: read_settings(path, Overrides(), environ))


def test_a_source_is_built_for_every_credential_that_is_configured_or_used(
    tmp_path: Path, key_file: Path
) -> None:
    text = f"credentials:\n  k: {{service_account_key: {key_file}}}\n  n: none\n  m: metadata\n"
    _, sources = loaded(tmp_path, text)
    kinds = {name: source.kind for name, source in sources.items()}
    assert kinds == {
        "default": "metadata server",
        "k": "service account key",
        "n": "none",
        "m": "metadata server",
    }
    with pytest.raises(SourceError, match="set to none"):
        sources["n"].fetch("x")


def test_a_default_that_no_rule_uses_is_not_built(tmp_path: Path) -> None:
    named = {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}
    text = (
        "destinations:\n  - {match: a.b, credential: s}\ncredentials: {s: {static_token: {env: T}}}"
    )
    _, sources = loaded(tmp_path, text, T="t", **named)
    assert list(sources) == ["s"]


def test_problems_of_the_file_and_of_its_credentials_are_told_together(tmp_path: Path) -> None:
    text = (
        "credentials:\n  a: {service_account_key: /nowhere/a}\n"
        "  b: {static_token: {file: /nowhere/b}}\ntokenz: 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    lines = str(caught.value).replace(str(tmp_path), "").splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]
    assert "/nowhere/a" in lines[0]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("{}", {"GOOGLE_APPLICATION_CREDENTIALS": f'{{"private_key": "{SENTINEL}"}}'}),
        (f'credentials: {{k: {{service_account_key: \'{{"k": "{SENTINEL}"}}\'}}}}', {}),
        ("credentials: {k: {service_account_key: {env: K}}}", {"K": SENTINEL}),
        ("credentials: {k: {service_account_key: {env: K}}}", {"K": f'{{"type": "{SENTINEL}'}),
        ("credentials: {k: {static_token: {env: T}}}", {"T": f"two {SENTINEL}"}),
        ("credentials: {k: {static_token: {env: T}}}", {"T": SENTINEL + "\udcff"}),
    ],
)
def test_no_problem_of_a_credential_quotes_it(
    tmp_path: Path, text: str, environ: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, **environ)
    assert SENTINEL not in str(caught.value)
    assert SENTINEL not in repr(caught.value.problems)


class Canned:
    """A source that does one thing."""

    kind, found, note = "canned", "nowhere", ""

    def __init__(self, outcome: Fetched | BaseException) -> None:
        self.outcome = outcome

    def fetch(self, audience: str) -> Fetched:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "code", "sentence"),
    [
        (SourceError("it is down", code="x"), "x", "it is down"),
        (RuntimeError(SENTINEL), "internal_error", "failed unexpectedly"),
        (KeyError(SENTINEL), "internal_error", "failed unexpectedly"),
    ],
)
async def test_the_runner_names_credential_and_audience_and_hides_foreign_texts(
    outcome: Exception, code: str, sentence: str
) -> None:
    runner = SourceRunner({"default": Canned(outcome)})
    with pytest.raises(SourceError) as caught:
        await runner.fetch(KEY)
    runner.close()
    error = caught.value
    assert error.code == code
    assert "credential 'default' (canned) has no token" in error.message
    assert KEY.audience in error.message
    assert sentence in error.message
    assert SENTINEL not in f"{error} {error.__cause__!r} {error.__context__!r}"


async def test_the_runner_uses_the_sources_of_the_moment() -> None:
    runner = SourceRunner({"default": Canned(Fetched("one"))})
    assert (await runner.fetch(KEY)).text == "one"
    runner.sources = {"other": Canned(Fetched("two"))}
    with pytest.raises(SourceError, match="is gone"):
        await runner.fetch(KEY)
    assert (await runner.fetch(TokenKey("other", ""))).text == "two"
    runner.close()
