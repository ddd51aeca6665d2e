"""The configuration of the newer parts: services, discovery, prewarm, interception, on_existing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ext_authz.config import Overrides, read_settings
from ext_authz.destination import Destination
from ext_authz.explain import audience_and_credential
from ext_authz.rules import Header
from ext_authz.settings import Interception, Settings
from ext_authz.short_names import Project


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def read(file: Path, content: str, **flags: Any) -> tuple[Settings, list[str]]:
    file.write_text(content)
    settings, problems = read_settings(file, Overrides(**flags), {})
    return settings, [str(problem).removeprefix(str(file)) for problem in problems]


def good(file: Path, content: str, **flags: Any) -> Settings:
    settings, problems = read(file, content, **flags)
    assert problems == []
    return settings


def test_a_service_has_a_name_a_url_and_a_rule_of_its_own(file: Path) -> None:
    settings = good(
        file,
        "destinations: [{match: '*.run.app'}]\n"
        "services:\n  backend: https://backend-1.europe-west1.run.app\n"
        "  Shop.default.svc.cluster.local: https://shop.example.com:8443/\n",
    )
    assert settings.services == {
        "backend": Destination("backend-1.europe-west1.run.app"),
        "shop.default.svc.cluster.local": Destination("shop.example.com", 8443),
    }
    assert [rule.match for rule in settings.rules] == ["*.run.app", "shop.example.com:8443"]
    assert settings.policy().services == settings.services


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("services: [a]", ":1: services: expected a mapping"),
        ("services: {backend: http://a.b}", ":1: services.backend: expected https://HOST"),
        ("services: {backend: https://a.b/path}", ":1: services.backend: expected https://HOST"),
        ("services: {backend: }", ":1: services.backend: expected a text"),
        ("services: {'backend:80': https://a.b}", "without a port as the key"),
        ("services: {10.0.0.1: https://a.b}", "without a port as the key"),
        ("services: {'a b': https://a.b}", "without a port as the key"),
        ("discovery: on", ":1: discovery: expected auto or off"),
        ("discovery: [a]", ":1: discovery: expected"),
        ("discovery: {region: europe-west1}", ":1: discovery: expected project_number and region"),
        ("discovery: {project_number: '12'}", ":1: discovery: expected project_number and region"),
        (
            "discovery: {project_number: my-project, region: europe-west1}",
            ":1: discovery.project_number: expected a project's number",
        ),
        (
            "discovery: {project_number: 12, region: Europe}",
            ":1: discovery.region: expected a region such as europe-west1",
        ),
        ("discovery: {project: 12, region: europe-west1}", ":1: discovery.project: unknown key"),
        ("tokens: {prewarm: sometimes}", ":1: tokens.prewarm: expected true or false"),
        ("tokens: {prewarm: ['*.run.app']}", ":1: tokens.prewarm[0]: expected the match of a rule"),
        ("tokens:\n  prewarm:\n  - a.b\n", ":3: tokens.prewarm[0]: expected the match of a rule"),
        ("tokens: {prewarm: [[]]}", ":1: tokens.prewarm[0]: expected a text"),
        ("intercept_https: true", ":1: intercept_https: expected a mapping"),
        ("intercept_https: {enabled: maybe}", ":1: intercept_https.enabled: expected true or"),
        ("intercept_https: {enabled: true}", "`idtoken-sidecar ca init` makes both"),
        ("intercept_https: {enabled: true, ca_key: /k}", "expected ca_certificate and ca_key"),
        ("intercept_https: {on: true}", ":1: intercept_https.on: unknown key"),
        (
            "destinations: [{match: a.b, on_existing: drop}]",
            ":1: destinations[0].on_existing: expected keep or replace",
        ),
        (
            "destinations: [{match: a.b, on_existing: keep}]",
            ":1: destinations[0].on_existing: keep goes with header authorization",
        ),
        (
            "destinations:\n- match: a.b\n  header: x-serverless-authorization\n"
            "  on_existing: keep\n",
            ":4: destinations[0].on_existing: keep goes with header authorization",
        ),
    ],
)
def test_each_mistake_has_its_sentence_and_its_place(file: Path, content: str, line: str) -> None:
    _, problems = read(file, content)
    assert problems
    assert line in problems[0]


def test_a_ca_that_cannot_be_read_is_one_problem_per_file(file: Path) -> None:
    _, problems = read(
        file, "intercept_https: {enabled: true, ca_certificate: /no/c, ca_key: /no/k}"
    )
    assert len(problems) == 2
    assert "/no/c cannot be read" in problems[0]
    assert "/no/k cannot be read" in problems[1]


def test_interception_is_off_until_it_is_enabled_with_readable_files(
    file: Path, tmp_path: Path
) -> None:
    for name in ("c", "k"):
        (tmp_path / name).write_text("")
    files = f"ca_certificate: {tmp_path}/c, ca_key: {tmp_path}/k"
    for off in ("{}", "{enabled: false}", f"{{{files}}}", f"{{enabled: false, {files}}}"):
        assert good(file, f"intercept_https: {off}").interception is None
    settings = good(file, f"intercept_https: {{enabled: true, {files}}}")
    assert settings.interception == Interception(tmp_path / "c", tmp_path / "k")
    assert settings.policy().interception


@pytest.mark.parametrize(
    ("content", "discovery", "project"),
    [
        ("services: {}", True, None),
        ("discovery: auto", True, None),
        ("discovery: off", False, None),
        (
            "discovery: {project_number: 123456789012, region: europe-west1}",
            True,
            Project("123456789012", "europe-west1"),
        ),
    ],
)
def test_discovery_is_a_word_or_the_project_itself(
    file: Path, content: str, discovery: bool, project: Project | None
) -> None:
    settings = good(file, content)
    assert (settings.discovery, settings.project) == (discovery, project)
    assert settings.policy().project == project


RULES = (
    "destinations: [{match: '*.run.app'}, {match: a.b}, {match: c.d:8443},"
    " {match: f.g, audience: 'https://{host}{path}'}]\n"
)


@pytest.mark.parametrize(
    ("prewarm", "chosen"),
    [
        ("false", ()),
        ("[]", ()),
        ("true", ("a.b", "c.d:8443")),
        ("['c.d:8443']", ("c.d:8443",)),
        ("[c.d:8443, a.b]", ("c.d:8443", "a.b")),
    ],
)
def test_prewarm_chooses_rules_of_one_host(
    file: Path, prewarm: str, chosen: tuple[str, ...]
) -> None:
    assert good(file, f"{RULES}tokens: {{prewarm: {prewarm}}}").prewarm == chosen


def test_prewarm_is_off_by_default(file: Path) -> None:
    assert good(file, RULES).prewarm == ()
    assert good(file, f"{RULES}tokens: {{refresh: lazy}}").prewarm == ()


@pytest.mark.parametrize("order", [1, -1])
def test_prewarm_knows_the_upstream_and_the_services_wherever_they_stand(
    file: Path, order: int
) -> None:
    sections = [
        "tokens: {prewarm: true}",
        "services: {backend: https://backend.example.com}",
        "reverse_proxy: {upstream: https://up.run.app}",
        "destinations: [{match: a.b}]",
    ]
    settings = good(file, "\n".join(sections[::order]))
    assert set(settings.prewarm) == {"a.b", "up.run.app", "backend.example.com"}


def test_prewarm_knows_the_upstream_of_the_flag(file: Path) -> None:
    settings = good(file, f"{RULES}tokens: {{prewarm: true}}", upstream="https://up.example.com")
    assert "up.example.com" in settings.prewarm


def test_on_existing_is_read_per_rule_and_replace_is_the_default(file: Path) -> None:
    settings = good(
        file,
        "destinations:\n"
        "- {match: a.b, header: authorization, on_existing: keep}\n"
        "- {match: c.d, header: authorization, on_existing: replace}\n"
        "- {match: e.f, on_existing: replace}\n"
        "- {match: g.h}\n",
    )
    assert [rule.keep_existing for rule in settings.rules] == [True, False, False, False]
    assert settings.rules[0].header is Header.AUTHORIZATION


def test_a_token_can_be_asked_for_by_the_short_name_of_a_service(file: Path) -> None:
    settings = good(
        file,
        "credentials: {robot: metadata}\n"
        "services: {backend: https://backend.example.com}\n"
        "destinations: [{match: backend.example.com, credential: robot, audience: '{host}/x'}]\n"
        "discovery: {project_number: 12, region: europe-west1}\n",
    )
    found = audience_and_credential("http://backend/path", settings)
    assert found == ("robot", "backend.example.com/x")
    found = audience_and_credential("http://web.us-east1/", settings)
    assert found == ("default", "https://web-12.us-east1.run.app")
