"""The `credentials` section: sources of sources, loops, endpoints, and when gcloud counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ext_authz.config import Overrides, read_settings
from ext_authz.config_credentials import has_metadata_server
from ext_authz.settings import (
    AutoCredential,
    FileSecret,
    GcloudCredential,
    ImpersonatedCredential,
    KeyCredential,
    MetadataCredential,
    WorkloadCredential,
    files_of,
)

ROBOT = "robot@p.iam.gserviceaccount.com"
ELSEWHERE = {"GCE_METADATA_HOST": "meta.local"}  # so that no test depends on this machine


def read(path: Path, text: str, **environ: str) -> tuple[dict[str, Any], list[str]]:
    path = path / "c.yaml"
    path.write_text(text)
    settings, problems = read_settings(path, Overrides(), ELSEWHERE | environ)
    found = {name: named.credential for name, named in settings.credentials.items()}
    return found, [str(problem).replace(f"{path.parent}/", "") for problem in problems]


def good(path: Path, text: str, **environ: str) -> dict[str, Any]:
    found, problems = read(path, text, **environ)
    assert problems == []
    return found


def test_the_contracts_own_example(tmp_path: Path) -> None:
    text = """\
credentials:
  default: auto
  robot: {impersonate: robot@p.iam.gserviceaccount.com, delegates: [], source: default}
  wif: {workload_identity: /secrets/wif.json, impersonate: robot@p.iam.gserviceaccount.com}
"""
    found = good(tmp_path, text)
    assert found["robot"] == ImpersonatedCredential(ROBOT, found["default"], "default")
    assert found["wif"] == WorkloadCredential(FileSecret(Path("/secrets/wif.json")), ROBOT)
    assert files_of(found["wif"]) == (Path("/secrets/wif.json"),)


def test_a_source_may_stand_further_down_and_be_a_chain(tmp_path: Path) -> None:
    text = """\
credentials:
  a: {impersonate: a@p.x, source: b, delegates: [m@p.x, projects/-/serviceAccounts/n@p.x]}
  b: {impersonate: b@p.x, source: k, iam_endpoint: "https://iam.private.example/"}
  k: {service_account_key: /k.json}
"""
    found = good(tmp_path, text)
    key = KeyCredential(FileSecret(Path("/k.json")))
    second = ImpersonatedCredential("b@p.x", key, "k", (), "https://iam.private.example")
    assert found["b"] == second
    assert found["a"] == ImpersonatedCredential("a@p.x", second, "b", ("m@p.x", "n@p.x"))
    assert files_of(found["a"]) == (Path("/k.json"),), "a changed key drops their tokens too"


def test_default_may_impersonate_from_what_it_would_have_been(tmp_path: Path) -> None:
    found = good(tmp_path, "credentials: {default: {impersonate: a@p.x}}")["default"]
    assert isinstance(found, ImpersonatedCredential)
    assert isinstance(found.source, AutoCredential)


def test_a_kind_without_a_name_can_be_a_source(tmp_path: Path) -> None:
    found = good(tmp_path, "credentials: {r: {impersonate: a@p.x, source: metadata}}")["r"]
    assert isinstance(found, ImpersonatedCredential)
    assert found.source == MetadataCredential()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["a: {impersonate: a@p.x, source: a}"],
            ["2: credentials.a.source: a loop of sources: a -> a"],
        ),
        (
            ["default: {impersonate: a@p.x, source: default}"],
            ["2: credentials.default.source: a loop of sources: default -> default"],
        ),
        (
            ["a: {impersonate: a@p.x, source: b}", "b: {impersonate: b@p.x, source: a}"],
            [
                "2: credentials.a.source: a loop of sources: a -> b -> a",
                "3: credentials.b.source: a loop of sources: b -> a -> b",
            ],
        ),
        (
            ["c: {impersonate: c@p.x, source: a}", "a: {impersonate: a@p.x, source: a}"],
            ["3: credentials.a.source: a loop of sources: a -> a"],
        ),
        (
            ["a: {impersonate: a@p.x, source: zz}", "c: {impersonate: c@p.x, source: a}"],
            ["2: credentials.a.source: there is no credential 'zz'; expected one of"],
        ),
        (
            ["s: {static_token: {file: /t}}", "a: {impersonate: a@p.x, source: s}"],
            ["3: credentials.a.source: credential 's' is no Google identity"],
        ),
        (
            ["n: none", "a: {impersonate: a@p.x, source: n}"],
            ["3: credentials.a.source: credential 'n' is no Google identity"],
        ),
        (
            ["a: {impersonate: a@p.x, delegates: [b@p.x, a@p.x]}"],
            ["2: credentials.a.delegates: a delegation loop"],
        ),
        (
            ["a: {impersonate: a@p.x, delegates: [b@p.x, c@p.x, b@p.x]}"],
            ["2: credentials.a.delegates: a delegation loop"],
        ),
        (
            ["a: {impersonate: robot}"],
            ["2: credentials.a.impersonate: expected a service account's"],
        ),
        (["a: {impersonate: 'a@p/../x'}"], ["2: credentials.a.impersonate: expected a service"]),
        (["a: {impersonate: }"], ["2: credentials.a.impersonate: expected a text"]),
        (
            ["a: {impersonate: a@p.x, delegates: [7]}"],
            ["2: credentials.a.delegates[0]: expected a service account's email"],
        ),
        (
            ["a: {impersonate: a@p.x, delegates: b@p.x}"],
            ["2: credentials.a.delegates: expected a list"],
        ),
        (["a: {impersonate: a@p.x, key: 5}"], ["2: credentials.a.key: unknown key; expected"]),
        (
            ["w: {workload_identity: /w, source: default}"],
            ["2: credentials.w.source: unknown key; expected"],
        ),
        (["w: {workload_identity: [x]}"], ["2: credentials.w.workload_identity: expected a text"]),
        (
            ["w: {workload_identity: /w, impersonate: 5}"],
            ["2: credentials.w.impersonate: expected a service account's email"],
        ),
    ],
)
def test_problems(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    _, problems = read(tmp_path, "\n  ".join(["credentials:", *lines]))
    assert len(problems) == len(expected), problems
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(f"c.yaml:{start}"), problem


@pytest.mark.parametrize(
    ("endpoint", "is_good"),
    [
        ("https://iam.private.example", True),
        ("https://iam.private.example:8443/", True),
        ("http://127.0.0.1:8181", True),
        ("http://localhost:8181", True),
        ("http://iam.private.example", False),
        ("https://iam.private.example/v1", False),
        ("https://me@iam.private.example", False),
        ("https://iam.private.example?x", False),
        ("ftp://127.0.0.1", False),
        ("https://[", False),
        ("https://", False),
        ("iam.private.example", False),
    ],
)
def test_iam_endpoints(tmp_path: Path, endpoint: str, is_good: bool) -> None:
    for first in ("impersonate: a@p.x", "workload_identity: /w"):
        text = f"credentials:\n  a: {{{first}, iam_endpoint: '{endpoint}'}}\n"
        found, problems = read(tmp_path, text)
        if is_good:
            assert found["a"].iam_endpoint == endpoint.rstrip("/")
        else:
            assert problems[0].startswith("c.yaml:2: credentials.a.iam_endpoint: expected https://")


def test_programs_of_federation_files_are_off_unless_the_variable_says_1(tmp_path: Path) -> None:
    text = "credentials: {w: {workload_identity: /w}}"
    for value, allowed in (("", False), ("0", False), ("true", False), ("1", True)):
        environ = {"GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": value}
        found = good(tmp_path, text, **environ)
        for name in ("w", "default"):
            assert found[name].allow_executables is allowed


def test_gcloud_is_looked_for_on_path(tmp_path: Path) -> None:
    program = tmp_path / "gcloud"
    program.write_text("")
    text = "credentials: {g: gcloud}"
    assert good(tmp_path, text, PATH=str(tmp_path))["g"] == GcloudCredential(None), "no program"
    program.chmod(0o755)
    found = good(tmp_path, text, PATH=f"/nowhere:{tmp_path}")
    assert found["g"] == GcloudCredential(program)
    assert found["default"] == AutoCredential(
        None, Path("/.config/gcloud/application_default_credentials.json")
    ), "there is a metadata server"


@pytest.mark.parametrize(
    ("environ", "product", "expected"),
    [
        ({}, None, False),
        ({}, "Google Compute Engine\n", True),
        ({}, "Google\n", True),
        ({}, "KVM\n", False),
        ({"K_SERVICE": "svc"}, None, True),
        ({"CLOUD_RUN_JOB": "job"}, "KVM", True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None, True),
        ({"GCE_METADATA_HOST": "127.0.0.1:1"}, None, True),
        ({"K_SERVICE": ""}, None, False),
    ],
)
def test_where_there_is_a_metadata_server(
    tmp_path: Path, environ: dict[str, str], product: str | None, expected: bool
) -> None:
    path = tmp_path / "product_name"
    if product is not None:
        path.write_text(product)
    assert has_metadata_server(environ, path) is expected


def test_firmware_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "product_name"
    path.write_bytes(b"\xff\xfe")
    assert not has_metadata_server({}, path)
