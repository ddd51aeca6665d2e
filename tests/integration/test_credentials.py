"""One credential of each kind through the real sidecar, verified by signature at the receiver."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ext_authz.sources.user import GCLOUD_CLIENT_ID
from ext_authz.standins import google as kinds
from ext_authz.standins.faults import Fault
from tests.support.ask import ask, error_of
from tests.support.polling import until
from tests.support.sidecar import Sidecar, run_command
from tests.support.world import World
from tests.unit.sources.fake_aws import AwsMetadata, is_signed
from tests.unit.sources.fake_gcloud import FakeGcloud

PROJECT = "local-project.iam.gserviceaccount.com"
PERSON = "person@example.com"
SENTINEL = "sentinel-51c0de-secret"
JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}")
SEEN_SECONDS = 15.0  # the file is looked at once a second; workers repeat an answer for ten
# The credential, and whose token its destination sees.
IDENTITIES = {
    "machine": f"sender@{PROJECT}",
    "key": f"ci@{PROJECT}",
    "robot": f"robot@{PROJECT}",
    "chained": f"chained@{PROJECT}",
    "wif_url": f"robot@{PROJECT}",
    "wif_file": f"robot@{PROJECT}",
    "wif_program": f"robot@{PROJECT}",
    "wif_aws": f"robot@{PROJECT}",
    "of_wif": f"chained@{PROJECT}",
    "gcloud": PERSON,
    "default": PERSON,
}


@dataclass
class Credentials:
    """The sidecar with every credential, the files behind them, and each one's own host."""

    world: World
    directory: Path
    aws: AwsMetadata
    hosts: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        google = self.world.google
        machine = str(google.metadata.email)
        google.directory.grant_token_creator(IDENTITIES["robot"], machine)
        google.directory.grant_token_creator(IDENTITIES["chained"], IDENTITIES["robot"])
        self.key = google.service_account_key(IDENTITIES["key"])
        self.user = google.authorized_user_file(PERSON)
        self.gcloud = FakeGcloud(self.directory, SENTINEL)
        self.gcloud.answers(
            "auth print-identity-token", google.issuer.mint(GCLOUD_CLIENT_ID, PERSON)
        )
        self.world.service.guard.audiences |= {self.user["client_id"], GCLOUD_CLIENT_ID}
        self.hosts = {name: self.world.cold() for name in (*IDENTITIES, "static", "lonely")}
        self.secrets = [self.key["private_key"].splitlines()[3], google.subject_token, SENTINEL]
        self.secrets += [self.user["refresh_token"], self.user["client_secret"], "ya29."]
        self.static = self.directory / "static"
        self.static.write_text(google.issuer.mint(f"https://{self.host('static')}", "own@x.y"))

    def host(self, name: str) -> str:
        return self.hosts[name].partition(":")[0]

    def environ(self) -> dict[str, str]:
        return {
            **self.world.google.environment(),
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.file("user", self.user)),
            "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1",
            "PATH": f"{self.directory}:/usr/bin:/bin",
        }

    def file(self, name: str, content: dict[str, Any]) -> Path:
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    def config(self) -> str:
        endpoint = self.world.google.public_url
        robot, chained = IDENTITIES["robot"], IDENTITIES["chained"]
        lines = [
            "credentials:",
            "  machine: metadata",
            "  gcloud: gcloud",
            f"  key: {{service_account_key: {self.file('key', self.key)}}}",
            f"  robot: {{impersonate: {robot}, source: machine, iam_endpoint: '{endpoint}'}}",
            f"  chained: {{impersonate: {chained}, delegates: [{robot}], source: machine, "
            f"iam_endpoint: '{endpoint}'}}",
            f"  lonely: {{impersonate: lonely@{PROJECT}, source: key, iam_endpoint: '{endpoint}'}}",
            f"  of_wif: {{impersonate: {chained}, source: wif_url, iam_endpoint: '{endpoint}'}}",
            f"  static: {{static_token: {{file: {self.static}}}}}",
            *(f"  {n}: {{workload_identity: {p}}}" for n, p in self.federations().items()),
        ]
        rules = [f"{{match: '{host}', credential: {name}}}" for name, host in self.hosts.items()]
        return self.world.config(*lines, rules=rules)

    def federations(self) -> dict[str, Path]:
        subject = self.directory / "subject"
        subject.write_text(self.world.google.subject_token)
        answer = {
            "version": 1,
            "success": True,
            "token_type": "urn:ietf:params:oauth:token-type:jwt",
            "id_token": self.world.google.subject_token,
        }
        program = self.directory / "program"
        program.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
        program.chmod(0o755)
        sources: dict[str, dict[str, Any] | None] = {
            "wif_url": None,
            "wif_file": {"file": str(subject)},
            "wif_program": {"executable": {"command": str(program), "timeout_millis": 5000}},
            "wif_aws": self.aws.credential_source(),
        }
        return {name: self.federation(name, source) for name, source in sources.items()}

    def federation(self, name: str, source: dict[str, Any] | None) -> Path:
        google = self.world.google
        robot = IDENTITIES["robot"]
        content = google.external_account_file(impersonate=robot, credential_source=source)
        provider = content["audience"]
        pool = provider.removeprefix("//iam.googleapis.com/").rpartition("/providers/")[0]
        principal = f"principal://iam.googleapis.com/{pool}/subject/workload"

        def subject_of(token: str) -> str | None:
            known = token == google.subject_token or is_signed(token, provider)
            return principal if known else None

        google.directory.federate(provider, subject_of)
        return self.file(name, content)

    def sidecar(self, home: Path) -> Sidecar:
        flags = (f"--dns-resolvers={self.world.dns.authority}",)
        return Sidecar(home, self.config(), *flags, environ=self.environ())


@pytest.fixture(scope="module")
def credentials(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Credentials]:
    with AwsMetadata() as aws:
        yield Credentials(world, tmp_path_factory.mktemp("credentials"), aws)


@pytest.fixture(scope="module")
def running(credentials: Credentials) -> Iterator[Sidecar]:
    with credentials.sidecar(credentials.directory / "run") as sidecar:
        yield sidecar


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_receiver_verifies_the_token(
    credentials: Credentials, running: Sidecar, name: str
) -> None:
    """The guard checks signature, issuer, audience and expiry; the e-mail says whose it is."""
    url = f"http://{credentials.hosts[name]}/{name}"
    answer = ask(running, url)
    assert (answer.status, name) == (200, name), answer.body
    seen = [one for one in credentials.world.service.requests if one.path == f"/{name}"][-1]
    assert seen.claims is not None
    assert seen.claims["email"] == IDENTITIES[name]


def test_a_static_token_of_a_file_follows_the_file(
    credentials: Credentials, running: Sidecar
) -> None:
    url = f"http://{credentials.hosts['static']}/static"
    audience = f"https://{credentials.host('static')}"

    def seen() -> str:
        assert ask(running, url).status == 200
        return str(credentials.world.service.requests[-1].claims["email"])

    assert seen() == "own@x.y"
    other = credentials.static.with_suffix(".new")
    other.write_text(credentials.world.google.issuer.mint(audience, "new@x.y"))
    other.replace(credentials.static)
    until(lambda: seen() == "new@x.y", SEEN_SECONDS, "the replaced token is sent")


def test_a_missing_grant_is_told_to_the_app(credentials: Credentials, running: Sidecar) -> None:
    """503 with the permission and the command; nothing is forwarded."""
    credentials.world.google.directory.add_service_account(f"lonely@{PROJECT}")
    before = len(credentials.world.service.requests)
    answer = ask(running, f"http://{credentials.hosts['lonely']}/")
    assert answer.status == 503
    error = error_of(answer)
    assert error["error"] == "token_unavailable"
    for part in (
        "credential 'lonely' (impersonation) has no token for audience",
        "iam.serviceAccounts.getOpenIdToken",
        f"--member=serviceAccount:{IDENTITIES['key']}",
    ):
        assert part in error["message"]
    assert answer.values("retry-after")
    assert len(credentials.world.service.requests) == before


def test_nothing_secret_is_written(credentials: Credentials, running: Sidecar) -> None:
    """After all the tests above: in no log line, page or file of the sidecar's."""
    shown = running.logs() + running.get_status("/metrics")[1] + running.get_status("/readyz")[1]
    assert "credential" in shown
    for secret in credentials.secrets:
        assert secret not in shown
    assert not JWT.search(shown)


def test_explain_tells_the_truth_about_a_login(credentials: Credentials, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(credentials.config())
    done = run_command(
        "explain",
        f"--config={path}",
        "--json",
        f"http://{credentials.hosts['default']}/",
        home=tmp_path,
        environ=credentials.environ(),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["credential_kind"] == "user login"
    assert found["credential_found"].startswith("GOOGLE_APPLICATION_CREDENTIALS=")
    assert credentials.user["client_id"] in found["credential_note"]


@pytest.mark.parametrize(
    ("endpoint", "name"), [(kinds.STS, "wif_url"), (kinds.GENERATE_ID_TOKEN, "robot")]
)
def test_a_stalled_link_of_a_chain_answers_in_time_and_serves_the_next(
    credentials: Credentials, endpoint: str, name: str, tmp_path: Path
) -> None:
    """The request gets its 503 within the bound; what comes late is kept for the next one."""
    google = credentials.world.google
    with credentials.sidecar(tmp_path) as fresh:
        google.fail(endpoint, Fault.stall(2.5))
        google.fail(kinds.METADATA_TOKEN, Fault.stall(2.5))
        google.fail(kinds.SUBJECT_TOKEN, Fault.stall(2.5))
        url = f"http://{credentials.hosts[name]}/late"
        assert ask(fresh, url).status == 503
        until(lambda: ask(fresh, url).status == 200, 6.0, "the late token is used")
