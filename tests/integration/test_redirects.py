"""A redirect from a destination of ours to one of ours leads back through the sidecar."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import ask, request_bytes, send
from tests.support.messages import Headers, Reply, RequestHead
from tests.support.polling import elapsed
from tests.support.raw_h2 import H2Client, request_headers
from tests.support.sidecar import Sidecar
from tests.support.world import World

AT_ONCE_SECONDS = 3.0  # three headers, half a second each
ELSEWHERE = "https://elsewhere.example/x"
LEFT_ALONE = [
    ELSEWHERE,
    "/relative?u=https://svc.localhost/",
    "//svc.localhost/x",
    "http://svc.localhost/x",
    "https://",
    "https://user@svc.localhost/",
    "https://169.254.169.254/",
    "ftp://svc.localhost/",
]


def reply_with(*headers: tuple[str, str], status: int = 302) -> Reply:
    """An answer that leads elsewhere."""
    return Reply(status=status, headers=headers, body=b"moved")


@pytest.fixture
def lead(world: World) -> list[tuple[str, str]]:
    """The headers of /lead; a test fills them."""
    headers: list[tuple[str, str]] = []

    def reply(_: RequestHead) -> Reply:
        return reply_with(*headers)

    world.capture.script("/lead", reply)
    world.plain.script("/lead", reply)
    return headers


@pytest.fixture(scope="module")
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One worker, so that the second request is served from the credential cache."""
    upstream = f"--upstream=https://{world.capture_authority}"
    directory = tmp_path_factory.mktemp("redirects")
    with world.sidecar(directory, "--concurrency=1", upstream) as found:
        yield found


def values(headers: Headers) -> dict[str, str]:
    """The three headers that lead elsewhere."""
    names = ("location", "content-location", "refresh")
    return {name.lower(): value for name, value in headers if name.lower() in names}


@pytest.mark.parametrize("path", ["", "/", "/a?b=c&d=https://x/", "/%2F#part"])
def test_forward_mode_leads_to_cleartext(
    shared: Sidecar, world: World, lead: list[tuple[str, str]], path: str
) -> None:
    lead.append(("location", f"https://{world.service_authority}{path}"))
    for _ in range(2):
        answer = ask(shared, f"{world.capture_url}/lead")
        assert (answer.status, answer.body) == (302, b"moved")
        assert values(answer.headers) == {"location": f"http://{world.service_authority}{path}"}


def test_what_it_leads_to_works(shared: Sidecar, world: World, lead: list[tuple[str, str]]) -> None:
    lead.append(("location", f"https://{world.service_authority}/"))
    (url,) = ask(shared, f"{world.capture_url}/lead").values("location")
    assert ask(shared, url).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_each_of_the_three_headers(
    shared: Sidecar, world: World, lead: list[tuple[str, str]], method: str
) -> None:
    ours = world.service_authority
    lead.append(("location", f"https://{ours}/1"))
    lead.append(("content-location", f"https://{ours}/2"))
    lead.append(("refresh", f"5; url=https://{ours}/3"))
    for _ in range(2):
        assert values(ask(shared, f"{world.capture_url}/lead", method).headers) == {
            "location": f"http://{ours}/1",
            "content-location": f"http://{ours}/2",
            "refresh": f"5; url=http://{ours}/3",
        }


def test_over_http2(shared: Sidecar, world: World, lead: list[tuple[str, str]]) -> None:
    lead.append(("location", f"https://{world.service_authority}/"))
    for _ in range(2):
        with H2Client(shared.forward, timeout_seconds=15.0) as client:
            found = client.request(request_headers("GET", world.capture_authority, "/lead"))
        assert values(found.headers) == {"location": f"http://{world.service_authority}/"}


@pytest.mark.parametrize("url", LEFT_ALONE)
def test_what_is_not_ours_is_left_alone(
    shared: Sidecar, world: World, lead: list[tuple[str, str]], url: str
) -> None:
    lead.append(("location", url))
    for _ in range(2):
        assert values(ask(shared, f"{world.capture_url}/lead").headers) == {"location": url}


def test_an_answer_of_somebody_else_is_left_alone(
    shared: Sidecar, world: World, lead: list[tuple[str, str]]
) -> None:
    url = f"https://{world.service_authority}/"
    lead.append(("location", url))
    found = ask(shared, f"http://plain.localhost:{world.plain.port}/lead")
    assert (found.status, values(found.headers)) == (302, {"location": url})


def test_reverse_mode_leads_to_its_own_address(
    shared: Sidecar, world: World, lead: list[tuple[str, str]]
) -> None:
    lead.append(("location", f"https://{world.capture_authority}/next?x=1"))
    for host in (str(shared.addresses["reverse"]), "name.example:81"):
        for _ in range(2):
            answer = send(shared.reverse, request_bytes("GET", "/lead", host))
            assert values(answer.headers) == {"location": f"http://{host}/next?x=1"}


def test_reverse_mode_leaves_other_hosts_alone(
    shared: Sidecar, world: World, lead: list[tuple[str, str]]
) -> None:
    url = f"https://{world.service_authority}/"
    lead.append(("location", url))
    for _ in range(2):
        answer = send(shared.reverse, request_bytes("GET", "/lead", "any"))
        assert values(answer.headers) == {"location": url}


def test_a_hung_service_leaves_the_answer_as_it_is(
    world: World, start_sidecar: StartSidecar, lead: list[tuple[str, str]]
) -> None:
    own = start_sidecar("--concurrency=1")
    url = f"https://{world.service_authority}/"
    lead.append(("location", url))
    assert ask(own, f"{world.capture_url}/").status == 200
    os.kill(own.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        answer = ask(own, f"{world.capture_url}/lead")
        assert (answer.status, values(answer.headers)) == (302, {"location": url})
        assert elapsed(started) < AT_ONCE_SECONDS
    finally:
        os.kill(own.process.pid, signal.SIGCONT)
