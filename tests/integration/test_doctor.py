"""doctor: one verdict per destination, each against a stand-in that is broken in one way."""

from __future__ import annotations

import datetime
import email.utils
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ext_authz.standins.certificates import make_authority
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GENERATE_ID_TOKEN, IDENTITY
from ext_authz.standins.private_service import PrivateService
from tests.support.capture import CaptureServer
from tests.support.messages import Reply
from tests.support.sidecar import Sidecar, run_command
from tests.support.world import SERVICE, World, server_tls

MACHINE = "sender@local-project.iam.gserviceaccount.com"
LONELY = "unwell@local-project.iam.gserviceaccount.com"
CHALLENGE = (("www-authenticate", 'Bearer error="invalid_token"'),)
HOUR = datetime.timedelta(hours=1)
Findings = dict[str, dict[str, Any]]


class Clinic:
    """The destinations, one per verdict, in one configuration file."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world, self.directory = world, directory
        leaf = world.authority.issue("*.clinic.localhost", file_name="clinic")
        stranger = make_authority(directory / "stranger").issue("untrusted.localhost")
        late = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) - HOUR)
        reply = Reply(status=401, headers=(("date", late), *CHALLENGE))
        self.skewed = CaptureServer(tls=server_tls(leaf, "http/1.1"), scripts={"/": reply})
        self.public = CaptureServer(tls=server_tls(leaf, "http/1.1"))
        audience = {"https://private.clinic.localhost"}
        self.private = PrivateService(world.google.issuer, audience, leaf, invokers={"nobody"})
        self.untrusted = CaptureServer(tls=server_tls(stranger))
        self.servers = (self.skewed, self.public, self.private, self.untrusted)

    def hosts(self) -> dict[str, str]:
        """What is to be found out, and where."""
        gone = CaptureServer()
        with gone:
            closed = gone.port
        port = self.world.service.port
        return {
            "reachable": self.world.service_authority,
            "token_refused": f"other-audience.cold.localhost:{port}",
            "permission_missing": f"private.clinic.localhost:{self.private.port}",
            "no_token": f"lonely.cold.localhost:{port}",
            "skewed": f"skewed.clinic.localhost:{self.skewed.port}",
            "public": f"public.clinic.localhost:{self.public.port}",
            "unresolvable": "no-such-host.invalid",
            "untrusted": f"untrusted.localhost:{self.untrusted.port}",
            "wrong_name": f"wrong.name.localhost:{port}",
            "closed": f"closed.clinic.localhost:{closed}",
            "wildcard": "*.run.app",
        }

    def config(self, hosts: dict[str, str]) -> Path:
        rules = [
            f"{{match: '{host}'{', credential: lonely' if name == 'no_token' else ''}}}"
            for name, host in hosts.items()
        ]
        self.world.google.directory.add_service_account(LONELY)
        endpoint = self.world.google.public_url
        lonely = f"  lonely: {{impersonate: {LONELY}, iam_endpoint: '{endpoint}'}}"
        path = self.directory / "sidecar.yaml"
        path.write_text(self.world.config("credentials:", lonely, rules=rules))
        return path

    def doctor(self, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = self.world.google.environment()
        flag = f"--config={config}"
        return run_command("doctor", flag, *arguments, home=self.directory, environ=environ)


@pytest.fixture(scope="module")
def clinic(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    found = Clinic(world, tmp_path_factory.mktemp("doctor"))
    for number, server in enumerate(found.servers):
        try:
            server.start()
        except BaseException:
            for started in found.servers[:number]:
                started.stop()
            raise
    yield found
    for server in found.servers:
        server.stop()


@pytest.fixture(scope="module")
def hosts(clinic: Clinic) -> dict[str, str]:
    return clinic.hosts()


@pytest.fixture(scope="module")
def findings(clinic: Clinic, hosts: dict[str, str]) -> Findings:
    """What one run over every rule finds out, by the names above."""
    done = clinic.doctor(clinic.config(hosts), "--json")
    assert done.returncode == 1, done.stderr  # not all is well
    assert "eyJ" not in done.stdout + done.stderr
    by_host = {found["destination"]: found for found in json.loads(done.stdout)}
    return {name: by_host[host] for name, host in hosts.items()}


@pytest.mark.parametrize(
    ("name", "verdict", "parts"),
    [
        ("reachable", "reachable", ["200 with the token"]),
        ("public", "public", ["without a token"]),
        ("token_refused", "token_refused", ["401", "https://other-audience.cold.localhost"]),
        (
            "permission_missing",
            "permission_missing",
            [
                f"{MACHINE} lacks run.invoker on private.clinic.localhost",
                "gcloud run services add-iam-policy-binding SERVICE --region=REGION "
                f"--member=serviceAccount:{MACHINE} --role=roles/run.invoker",
            ],
        ),
        ("no_token", "no_token", ["iam.serviceAccounts.getOpenIdToken", LONELY, "gcloud iam"]),
        ("skewed", "token_refused", ["clock is off by 36"]),
        ("unresolvable", "unresolvable", ["does not resolve from here", "DNS"]),
        ("untrusted", "unreachable", ["certificate is not trusted", "ca_file"]),
        ("wrong_name", "unreachable", ["certificate", "wrong.name.localhost"]),
        ("closed", "unreachable", ["ConnectionRefusedError"]),
        ("wildcard", "wildcard", ["doctor https://HOST"]),
    ],
)
def test_each_destination_gets_its_verdict_and_what_to_do(
    findings: Findings, name: str, verdict: str, parts: list[str]
) -> None:
    found = findings[name]
    assert found["verdict"] == verdict, found
    assert all(part in found["advice"] for part in parts), found["advice"]


def test_a_finding_tells_credential_claims_addresses_and_statuses(findings: Findings) -> None:
    found = findings["reachable"]
    assert found["credential"] == "default"
    assert "metadata" in found["credential_found"]
    assert found["identity"] == MACHINE
    assert found["audience"] == f"https://{SERVICE}"
    assert 3000 < found["expires_in_seconds"] <= 3600
    assert "127.0.0.1" in found["addresses"]
    assert (found["status_without_token"], found["status_with_token"]) == (403, 200)
    assert abs(found["clock_skew_seconds"]) < 30


def test_the_clock_is_compared_with_the_destinations(findings: Findings) -> None:
    assert 3500 < findings["skewed"]["clock_skew_seconds"] < 3700


def test_where_something_is_wrong_before_no_token_is_sent(
    clinic: Clinic, findings: Findings
) -> None:
    for name in ("no_token", "unresolvable", "untrusted", "closed"):
        assert findings[name]["status_with_token"] is None
    assert clinic.untrusted.requests == []


def test_one_url_is_told_as_text_and_the_exit_status_says_whether_it_is_good(
    clinic: Clinic, hosts: dict[str, str]
) -> None:
    config = clinic.config(hosts)
    good = clinic.doctor(config, f"http://{hosts['reachable']}/path")
    assert good.returncode == 0, good.stdout
    assert good.stdout.splitlines()[0].endswith(f"{hosts['reachable']}/path: reachable")
    assert f"identity: {MACHINE}" in good.stdout
    assert "eyJ" not in good.stdout
    bad = clinic.doctor(config, f"https://{hosts['token_refused']}")
    assert bad.returncode == 1


def test_a_metadata_server_that_is_away_is_told_in_words(
    clinic: Clinic, hosts: dict[str, str]
) -> None:
    clinic.world.google.fail(IDENTITY, Fault.error(503))
    clinic.world.google.fail(GENERATE_ID_TOKEN, Fault.error(503))
    done = clinic.doctor(clinic.config(hosts), "--json", f"http://{hosts['reachable']}")
    (found,) = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (1, "no_token")
    assert found["status_without_token"] == 403


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://a b/"])
def test_what_is_no_url_is_one_sentence(clinic: Clinic, hosts: dict[str, str], url: str) -> None:
    done = clinic.doctor(clinic.config(hosts), url)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) <= 2


def test_a_trust_bundle_that_holds_no_certificate_is_one_sentence(
    clinic: Clinic, hosts: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    url = f"http://{hosts['reachable']}"
    done = clinic.doctor(clinic.config(hosts), f"--ca-file={tmp_path}/ca.pem", url)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "ca.pem" in done.stdout + done.stderr or "ca_file" in done.stdout


@pytest.mark.parametrize("address", ["http://127.0.0.1:port", "127.0.0.1:99999", "http://"])
def test_a_sidecars_address_that_is_none_is_wrong_usage(
    clinic: Clinic, hosts: dict[str, str], address: str
) -> None:
    url = f"http://{hosts['reachable']}"
    done = clinic.doctor(clinic.config(hosts), f"--sidecar={address}", url)
    assert done.returncode == 2, done.stdout
    assert len(done.stderr.splitlines()) == 1


def through(clinic: Clinic, sidecar: str, host: str) -> dict[str, Any]:
    hosts = {"any": host, "wildcard": "*.run.app"}
    done = clinic.doctor(clinic.config(hosts), "--json", f"--sidecar={sidecar}", host)
    assert done.stderr == ""
    (found,) = json.loads(done.stdout)
    assert (done.returncode == 0) == (found["verdict"] == "reachable")
    return dict(found)


def test_through_a_running_sidecar_its_own_view_counts(
    clinic: Clinic, world: World, sidecar: Sidecar
) -> None:
    found = through(clinic, sidecar.proxy_url, world.service_authority)
    assert (found["verdict"], found["status_with_token"]) == ("reachable", 200)
    refused = f"elsewhere.cold.localhost:{world.service.port}"
    assert through(clinic, sidecar.proxy_url, refused)["verdict"] == "token_refused"
    world.google.fail(IDENTITY, Fault.error(404))
    found = through(clinic, sidecar.proxy_url, world.cold())
    assert (found["verdict"], found["status_with_token"]) == ("token_unavailable", 503)
    assert "service account" in found["advice"]


def test_a_sidecar_that_does_not_run_is_told(clinic: Clinic, world: World) -> None:
    with CaptureServer() as gone:
        address = f"http://127.0.0.1:{gone.port}"
    assert through(clinic, address, world.service_authority)["verdict"] == "no_sidecar"
