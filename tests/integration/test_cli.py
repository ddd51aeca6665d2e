"""The commands that do one thing and end: token, explain, check-config, and wrong usage."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from ext_authz.tokens import unverified_claims
from tests.support.sidecar import run_command
from tests.support.world import World

Done = subprocess.CompletedProcess[str]
BROKEN = """\
credentials:
  default: autoo
  k: {service_account_key: /nope.json}
  s: {static_token: {env: NO_SUCH_VARIABLE}}
destinations:
  - match: "*.run.app"
    audience: "https://{hos}"
    header: foo
  - match: "*.run.app:443"
    credential: zz
  - match: "a..b"
tokenz: {}
upstream: {ca_file: /nope, allow_loopback: 3}
"""
# Line, key, and a word of what was expected, of every problem in BROKEN.
PROBLEMS = [
    (2, "credentials.default", "auto"),
    (3, "credentials.k", "/nope.json"),
    (4, "credentials.s", "NO_SUCH_VARIABLE"),
    (7, "destinations[0].audience", "{host}"),
    (8, "destinations[0].header", "authorization"),
    (10, "destinations[1].credential", "zz"),
    (11, "destinations[2].match", "a..b"),
    (12, "tokenz", "unknown"),
    (13, "upstream.ca_file", "/nope"),
    (13, "upstream.allow_loopback", "true or false"),
]
ROBOT = "robot@local-project.iam.gserviceaccount.com"


def command(world: World, home: Path, *arguments: str, **environ: str) -> Done:
    """Run a command with the stand-in Google."""
    return run_command(*arguments, home=home, environ={**world.google.environment(), **environ})


def assert_one_sentence(done: Done, status: int) -> None:
    """Nothing on stdout, one plain line on stderr."""
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("idtoken-sidecar: "), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_token_prints_the_token_alone(world: World, tmp_path: Path) -> None:
    """So that $(idtoken-sidecar token …) works."""
    done = command(world, tmp_path, "token", "https://svc-abc.a.run.app/x")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert unverified_claims(done.stdout.strip())["aud"] == "https://svc-abc.a.run.app"


def test_token_takes_an_audience(world: World, tmp_path: Path) -> None:
    """Anything that no rule matches is one."""
    done = command(world, tmp_path, "token", "my-own-audience")
    assert unverified_claims(done.stdout.strip())["aud"] == "my-own-audience"


def test_claims_are_printed_instead_of_the_token(world: World, tmp_path: Path) -> None:
    """As JSON, without the token."""
    done = command(world, tmp_path, "token", "--claims", "https://svc-abc.a.run.app")
    assert json.loads(done.stdout)["aud"] == "https://svc-abc.a.run.app"
    assert "eyJ" not in done.stdout


def test_token_uses_the_key_of_the_environment(world: World, tmp_path: Path) -> None:
    """GOOGLE_APPLICATION_CREDENTIALS comes before the metadata server."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps(world.google.service_account_key(ROBOT)))
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    done = command(world, tmp_path, "token", "--claims", "https://a.run.app", **variables)
    assert json.loads(done.stdout)["email"] == ROBOT


def test_no_token_is_exit_1_and_a_sentence(world: World, tmp_path: Path) -> None:
    """Which credential, and what to do."""
    world.google.fail(IDENTITY, Fault.error(404))
    done = command(world, tmp_path, "token", "https://svc-abc.a.run.app")
    assert_one_sentence(done, 1)
    assert "metadata server" in done.stderr


def test_explain_tells_the_whole_decision(world: World, tmp_path: Path) -> None:
    """Without asking anybody."""
    before = len(world.google.requests)
    done = command(world, tmp_path, "explain", "--json", "http://tag---svc-abc.a.run.app/x?y")
    found = json.loads(done.stdout)
    expected = {
        "decision": "inject",
        "rule": "*.run.app",
        "audience": "https://svc-abc.a.run.app",
        "credential": "default",
        "credential_kind": "metadata server",
        "header": "authorization",
        "upstream": "https://tag---svc-abc.a.run.app",
    }
    assert found.items() >= expected.items()
    assert len(world.google.requests) == before


@pytest.mark.parametrize(
    ("url", "decision", "word"),
    [
        ("http://other.example/", "pass", ""),
        ("http://169.254.169.254/", "deny", "destination_forbidden"),
        ("http://a..b/", "deny", "bad_destination"),
    ],
)
def test_explain_tells_of_other_decisions(
    world: World, tmp_path: Path, url: str, decision: str, word: str
) -> None:
    """Also when there is no token in it."""
    found = json.loads(command(world, tmp_path, "explain", "--json", url).stdout)
    assert (found["decision"], found.get("error", "")) == (decision, word)


def test_explain_prints_one_fact_on_a_line(world: World, tmp_path: Path) -> None:
    """For people."""
    done = command(world, tmp_path, "explain", "svc-abc.a.run.app")
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert lines["audience"].strip() == "https://svc-abc.a.run.app"


def test_check_config_reports_every_problem_with_its_line(tmp_path: Path) -> None:
    """At once, so that one run is enough."""
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    done = run_command("check-config", str(file), home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    for number, key, word in PROBLEMS:
        start = f"idtoken-sidecar: {file}:{number}: {key}"
        assert [line for line in lines if line.startswith(start) and word in line], (start, lines)
    assert all(line.startswith(f"idtoken-sidecar: {file}:") for line in lines)


@pytest.mark.parametrize("name", ["run", "exec", "serve", "token", "explain"])
def test_broken_configuration_is_exit_2_everywhere(tmp_path: Path, name: str) -> None:
    """With the same sentences."""
    file = tmp_path / "broken.yaml"
    file.write_text("destinatoins: []\n")
    rest = {"exec": ["--", "true"], "token": ["http://a.run.app"], "explain": ["http://x.example"]}
    done = run_command(name, f"--config={file}", *rest.get(name, []), home=tmp_path)
    assert_one_sentence(done, 2)
    assert f"{file}:1: destinatoins: unknown key" in done.stderr


def test_good_configuration_is_exit_0(world: World, tmp_path: Path) -> None:
    """And says so."""
    file = tmp_path / "good.yaml"
    file.write_text(world.config())
    done = run_command("check-config", str(file), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "good" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-command",),
        ("run", "--no-such-flag"),
        ("run", "--forward-port=http"),
        ("run", "--forward-port=65536"),
        ("run", "--concurrency=0"),
        ("run", "--other-destinations=maybe"),
        ("run", "--upstream=http://svc.a.run.app"),
        ("run", "--upstream=https://svc.a.run.app/path"),
        ("run", "--upstream=https://user@svc.a.run.app"),
        ("run", "--config=/no/such/file.yaml"),
        ("serve", "--listen=0.0.0.0:9191"),
        ("serve", "--listen=somewhere"),
        ("serve", "--drain-seconds=-1"),
        ("exec",),
        ("exec", "--"),
        ("token",),
        ("token", ""),
        ("explain", ""),
        ("explain", "ftp://svc.a.run.app/"),
        ("explain", "http:///x"),
        ("check-config", "/no/such/file.yaml"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_and_one_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Never a traceback or a screen of help."""
    assert_one_sentence(run_command(*arguments, home=tmp_path), 2)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("IDTOKEN_SIDECAR_FORWARD_PORT", "http", "IDTOKEN_SIDECAR_FORWARD_PORT"),
        ("IDTOKEN_SIDECAR_ALLOW_LOOPBACK", "perhaps", "IDTOKEN_SIDECAR_ALLOW_LOOPBACK"),
        ("IDTOKEN_SIDECAR_OTHER_DESTINATIONS", "maybe", "IDTOKEN_SIDECAR_OTHER_DESTINATIONS"),
        ("UPSTREAM_URL", "http://svc.a.run.app", "https"),
    ],
)
def test_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, word: str) -> None:
    """The sentence says which one."""
    done = run_command("run", home=tmp_path, environ={variable: value})
    assert_one_sentence(done, 2)
    assert word in done.stderr


def test_flag_wins_over_variable_and_variable_over_file(world: World, tmp_path: Path) -> None:
    """File, environment, flags: in that order of precedence."""
    file = tmp_path / "sidecar.yaml"
    file.write_text("other_destinations: deny\n")
    variable = "IDTOKEN_SIDECAR_OTHER_DESTINATIONS"
    arguments = ("explain", "--json", f"--config={file}", "http://other.example")

    def decision(*flags: str, **environ: str) -> str:
        done = command(world, tmp_path, *arguments, *flags, **environ)
        return str(json.loads(done.stdout)["decision"])

    assert decision() == "deny"
    assert decision(**{variable: "pass"}) == "pass"
    assert decision("--other-destinations=deny", **{variable: "pass"}) == "deny"


def test_help_and_version_go_to_stdout(tmp_path: Path) -> None:
    """Every flag is listed with its variable."""
    shown = run_command("run", "--help", home=tmp_path)
    assert shown.returncode == 0
    assert "IDTOKEN_SIDECAR_FORWARD_PORT" in shown.stdout
    assert run_command("--version", home=tmp_path).stdout.startswith("idtoken-sidecar ")
