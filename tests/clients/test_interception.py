"""Programs that call https:// get their token through `exec` with interception, unchanged."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.sync.client import connect

from ext_authz.standins.private_app import HELLO
from tests.clients.conftest import cache_directory, find_program
from tests.clients.test_node import scripts as scripts  # noqa: PLC0414 (a fixture)
from tests.conftest import StartSidecar
from tests.support.go_build import build
from tests.support.grpc_calls import authority_of, config_for, go_contact
from tests.support.interception import LocalCa, make_ca
from tests.support.sidecar import clean_environment, command_line, free_ports
from tests.support.tunnels import claims_of
from tests.support.world import CAPTURE, SERVICE, World

SECONDS = 60
SOURCES = Path(__file__).parents[1] / "support" / "goget"
VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
SHOW = """
import json, os
bundle = open(os.environ["SSL_CERT_FILE"]).read()
print(json.dumps([dict(os.environ), bundle]))
"""
REQUESTS = "import requests, sys; print(requests.get(sys.argv[1], timeout=20).text, end='')"
GRPC = """
import grpc, sys
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    call = channel.unary_unary("/idtoken.Echo/Unary")
    print(call(b"inside TLS", timeout=20).decode())
"""

Exec = Callable[..., str]


@pytest.fixture(scope="module")
def ca(world: World, tmp_path_factory: pytest.TempPathFactory) -> LocalCa:
    """Make a CA for the names of the world's rules."""
    return make_ca(tmp_path_factory.mktemp("ca"), world.config())


@pytest.fixture
def execute(world: World, ca: LocalCa, tmp_path: Path) -> Exec:
    """Return a function that runs a command through `exec` with interception; gives its stdout."""

    def run(*command: str, config: str | None = None, cwd: Path | None = None) -> str:
        file = tmp_path / "sidecar.yaml"
        file.write_text(config or world.config(ca.setting))
        resolvers = f"--dns-resolvers={world.dns.authority}"
        flags = [f"--config={file}", resolvers, *free_ports("exec")]
        done = subprocess.run(
            command_line("exec", *flags, "--", *command),
            env=clean_environment(tmp_path, world.google.environment()),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=cwd,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def url(world: World) -> str:
    """What the app calls: https, as in production."""
    return f"https://{world.service_authority}/"


def test_command_finds_proxy_and_trust_in_its_environment(execute: Exec, ca: LocalCa) -> None:
    """Every variable names one bundle of the system's roots and the CA."""
    environ, bundle = json.loads(execute(sys.executable, "-c", SHOW))
    assert environ["HTTPS_PROXY"] == environ["https_proxy"] == environ["HTTP_PROXY"]
    assert len({environ[name] for name in VARIABLES}) == 1
    assert ca.certificate.read_text().strip() in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 1
    assert "PRIVATE KEY" not in bundle


def test_bundle_serves_every_program_of_the_sort(execute: Exec) -> None:
    """It holds no certificate twice broken by a missing line end."""
    _, bundle = json.loads(execute(sys.executable, "-c", SHOW))
    context = ssl.create_default_context(cadata=bundle)
    assert context.cert_store_stats()["x509_ca"] == bundle.count("BEGIN CERTIFICATE")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_is_greeted(execute: Exec, url: str, version: str) -> None:
    """By either version of HTTP inside."""
    shown = "%{http_version}"
    out = execute(find_program("curl"), "-sS", "-m", "20", version, "-w", shown, url)
    assert out == f"{HELLO}\n{'2' if version == '--http2' else '1.1'}"


def test_requests_is_greeted(execute: Exec, url: str) -> None:
    """By REQUESTS_CA_BUNDLE and HTTPS_PROXY."""
    assert execute(sys.executable, "-c", REQUESTS, url) == f"{HELLO}\n"


def test_claims_are_those_of_the_destination(execute: Exec, url: str) -> None:
    """The same audience as without TLS."""
    claims = json.loads(execute(sys.executable, "-c", REQUESTS, f"{url}claims"))
    assert claims["aud"] == f"https://{SERVICE}"


def test_node_is_greeted(execute: Exec, url: str, scripts: Path) -> None:
    """By NODE_EXTRA_CA_CERTS; undici tunnels."""
    get = f'exec {find_program("node")} get.mjs --agent undici --proxy "$HTTPS_PROXY" --url {url}'
    answer = json.loads(execute("sh", "-c", get, cwd=scripts))
    assert (answer["status"], answer["body"]) == (200, f"{HELLO}\n")


def test_go_is_greeted(execute: Exec, url: str) -> None:
    """By SSL_CERT_FILE, in HTTP/2 as Go prefers."""
    goget = build(find_program("go"), SOURCES, cache_directory("go"))
    answer = json.loads(execute(str(goget), url))
    assert answer == {"protocol": "HTTP/2.0", "status": 200, "body": f"{HELLO}\n"}


def test_grpcio_secure_channel_is_answered(world: World, execute: Exec, tmp_path: Path) -> None:
    """By GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, through https_proxy."""
    with go_contact(world) as contact:
        own = make_ca(tmp_path / "grpc", config_for(world, contact))
        config = config_for(world, contact, own.setting)
        out = execute(sys.executable, "-c", GRPC, authority_of(contact), config=config)
        assert out == "inside TLS\n"
        assert contact.calls[-1].refusal is None


def test_secure_websocket_is_answered(
    world: World, start_sidecar: StartSidecar, ca: LocalCa
) -> None:
    """wss:// with its token, HTTP/1.1 upstream."""
    own = start_sidecar(config=world.config(ca.setting))
    uri = f"wss://{world.capture_authority}/websocket"
    with connect(uri, ssl=ca.trust(), proxy=own.proxy_url, open_timeout=20) as websocket:
        websocket.send("hello")
        assert websocket.recv(20) == "hello"
    received = next(one for one in reversed(world.capture.requests) if one.path == "/websocket")
    assert claims_of(world, received)["aud"] == f"https://{CAPTURE}"
    assert received.connection.alpn == "http/1.1"


def test_host_without_a_rule_is_reached_end_to_end(execute: Exec, world: World) -> None:
    """Its own certificate counts, which the bundle does not make trusted."""
    curl = find_program("curl")
    target = f"https://127.0.0.1:{world.capture.port}/"
    trust = str(world.authority.certificate)
    out = execute(curl, "-sS", "-m", "20", "--noproxy", "", "--cacert", trust, target)
    assert out == "Hello from the receiving service!"
    assert world.capture.requests[-1].values("authorization") == []
