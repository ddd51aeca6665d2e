"""Whose token, for which audience, in which header: each rule as the receiver sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ext_authz.standins.issuer import Claims
from ext_authz.standins.verifier import TokenVerifier
from tests.support.ask import ask, verdict
from tests.support.messages import RequestHead
from tests.support.sidecar import Sidecar
from tests.support.world import World

ROBOT = "robot@local-project.iam.gserviceaccount.com"
CLIENT_ID = "1234-abc.apps.googleusercontent.com"
OWN = "Bearer the-apps-own"
SERVERLESS = "x-serverless-authorization"
NAMES = ("authorization", SERVERLESS, "proxy-authorization")
# What each host's rule says beside its match.
RULES = {
    "*": "",
    "*.deep": "audience: 'deep {host}'",
    "exact.deep": "audience: exact",
    "custom": "audience: 'projects/1/custom:x'",
    "function": "audience: 'https://{host}{path}'",
    "iap": f"audience: {CLIENT_ID}, header: proxy-authorization",
    "robot": "credential: robot",
    "serverless": f"header: {SERVERLESS}",
    "replace": "header: authorization",
    "keep": "header: authorization, on_existing: keep",
}


class Receiver:
    """The recording upstream behind the sidecar; `get` gives what arrived there."""

    def __init__(self, world: World, sidecar: Sidecar) -> None:
        self.world, self.sidecar = world, sidecar

    def host(self, name: str) -> str:
        return f"{name}.cold.localhost"

    def url(self, name: str, path: str = "/") -> str:
        return f"http://{self.host(name)}:{self.world.capture.port}{path}"

    def get(self, name: str, path: str = "/", **headers: str) -> RequestHead:
        capture = self.world.capture
        before = len(capture.requests)
        sent = [(key.replace("_", "-"), value) for key, value in headers.items()]
        answer = ask(self.sidecar, self.url(name, path), headers=sent)
        assert answer.status in (200, 404), answer
        return capture.wait_for(before + 1)

    def claims(self, request: RequestHead, header: str = "authorization") -> Claims:
        """The verified claims of the one token in this header; the other headers hold none."""
        (credential,) = request.values(header)
        for other in NAMES:
            assert other == header or "eyJ" not in "".join(request.values(other))
        verifier = TokenVerifier(self.world.google.issuer)
        return verifier.verify_signature(credential.removeprefix("Bearer "))

    def audience(self, name: str, path: str = "/") -> str:
        return str(self.claims(self.get(name, path))["aud"])


@pytest.fixture(scope="module")
def receiver(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    google = world.google
    google.directory.grant_token_creator(ROBOT, str(google.metadata.email))
    credential = f"{{impersonate: {ROBOT}, source: default, iam_endpoint: '{google.public_url}'}}"
    rules = [
        f"{{match: '{name}.cold.localhost:{world.capture.port}'{', ' if rest else ''}{rest}}}"
        for name, rest in RULES.items()
    ]
    config = world.config("credentials:", f"  robot: {credential}", rules=rules)
    with world.sidecar(tmp_path_factory.mktemp("audiences"), config=config) as sidecar:
        yield Receiver(world, sidecar)


def test_the_most_specific_rule_wins(receiver: Receiver) -> None:
    assert receiver.audience("any") == "https://any.cold.localhost"
    assert receiver.audience("custom") == "projects/1/custom:x"


def test_a_longer_suffix_wins_over_a_shorter_and_an_exact_host_over_both(
    receiver: Receiver,
) -> None:
    """Judged by what `explain` would show: the certificate has no names two labels deep."""
    from tests.support.sidecar import run_command

    for name, audience in (
        ("x.y", "https://x.y.cold.localhost"),
        ("x.deep", "deep x.deep.cold.localhost"),
        ("exact.deep", "exact"),
    ):
        done = run_command(
            "explain",
            f"--config={receiver.sidecar.config}",
            receiver.url(name),
            home=receiver.sidecar.directory,
            environ=receiver.world.google.environment(),
        )
        assert done.returncode == 0, done.stderr
        assert audience in done.stdout
    assert "lost to an exact host" in done.stdout


@pytest.mark.parametrize("tag", ["green", "pr-12", "a--b"])
def test_a_traffic_tag_is_called_but_is_no_part_of_the_audience(
    receiver: Receiver, tag: str
) -> None:
    request = receiver.get(f"{tag}---svc")
    assert receiver.claims(request)["aud"] == "https://svc.cold.localhost"
    assert str(request.authority).startswith(f"{tag}---svc.cold.localhost:")


def test_each_function_of_a_host_has_an_audience_of_its_own(receiver: Receiver) -> None:
    """Also when the worker repeats answers: its memory must not know a host's first function."""
    host = "https://function.cold.localhost"
    for path in ("/one", "/two/more?q=/three", "/one/", "/two", "/one"):
        assert receiver.audience("function", path) == host + path[:4]


@pytest.mark.parametrize("path", ["/", "/?/one", "//one", "/a.b/one", f"/{'f' * 64}"])
def test_a_path_that_names_no_function_is_refused(receiver: Receiver, path: str) -> None:
    before = len(receiver.world.capture.requests)
    answer = ask(receiver.sidecar, receiver.url("function", path))
    assert verdict(answer) == (400, "bad_destination")
    assert len(receiver.world.capture.requests) == before


def test_iap_gets_the_token_with_its_email_beside_the_apps_own_header(receiver: Receiver) -> None:
    request = receiver.get("iap", authorization=OWN)
    claims = receiver.claims(request, "proxy-authorization")
    assert claims["aud"] == CLIENT_ID
    assert claims["email"] == receiver.world.google.metadata.email
    assert claims["email_verified"]
    assert request.values("authorization") == [OWN]


def test_each_host_gets_the_token_of_its_credential(receiver: Receiver) -> None:
    machine = str(receiver.world.google.metadata.email)
    for name, email in (("robot", ROBOT), ("other", machine), ("robot", ROBOT)):
        assert receiver.claims(receiver.get(name))["email"] == email


def test_the_apps_own_authorization_is_untouched_by_default(receiver: Receiver) -> None:
    request = receiver.get("auto", authorization=OWN)
    assert request.values("authorization") == [OWN]
    assert receiver.claims(request, SERVERLESS)["aud"] == "https://auto.cold.localhost"


def test_replace_overwrites_the_apps_own_header(receiver: Receiver) -> None:
    request = receiver.get("replace", authorization=OWN)
    assert receiver.claims(request)["aud"] == "https://replace.cold.localhost"


def test_keep_sends_the_apps_own_header_and_no_token(receiver: Receiver) -> None:
    for _ in range(2):
        request = receiver.get("keep", authorization=OWN)
        assert request.values("authorization") == [OWN]
        assert request.values(SERVERLESS) == request.values("proxy-authorization") == []
        assert receiver.claims(receiver.get("keep"))["aud"] == "https://keep.cold.localhost"


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", ["any", "iap", "serverless", "replace", "keep"])
def test_an_inbound_serverless_header_never_arrives(
    receiver: Receiver, name: str, own: bool
) -> None:
    """It would win over our token at Cloud Run."""
    headers = {"authorization": OWN} if own else {}
    request = receiver.get(name, x_serverless_authorization="Bearer inbound", **headers)
    values = request.values(SERVERLESS)
    assert "Bearer inbound" not in values
    assert len(values) == (name == "serverless" or (name == "any" and own))


def test_a_named_header_is_used_for_each_request(receiver: Receiver) -> None:
    request = receiver.get("serverless", authorization=OWN)
    assert receiver.claims(request, SERVERLESS)["aud"] == "https://serverless.cold.localhost"
    assert request.values("authorization") == [OWN]
