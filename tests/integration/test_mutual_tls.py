"""mTLS of --listen: who may ask for tokens from another machine, and certificates that change."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.standins.certificates import Authority, LeafCertificate, make_authority
from tests.support.ask import request_bytes, send
from tests.support.foreign_envoy import ForeignEnvoy
from tests.support.polling import until
from tests.support.sidecar import Sidecar, run_command
from tests.support.tunnels import claims_of
from tests.support.world import CAPTURE, World

HOST = "svc.cold.localhost"
TIMEOUT_SECONDS = 10
SEEN_SECONDS = 15.0


@dataclass
class Guarded:
    """A service that asks for client certificates, with the files that it watches."""

    sidecar: Sidecar
    directory: Path
    authority: Authority

    def use(self, leaf: LeafCertificate) -> None:
        """Replace certificate and key, as cert-manager does."""
        for source, name in ((leaf.certificate, "server.pem"), (leaf.key, "server-key.pem")):
            shutil.copy(source, self.directory / "fresh")
            (self.directory / "fresh").replace(self.directory / name)

    def check(self, client: LeafCertificate | None) -> grpc.StatusCode:
        """Ask as this client; give the status of the call."""
        ca = self.authority.certificate.read_bytes()
        key, chain = (
            (client.key.read_bytes(), client.certificate.read_bytes())
            if client
            else (
                None,
                None,
            )
        )
        credentials = grpc.ssl_channel_credentials(ca, key, chain)
        message = pb.CheckRequest()
        message.attributes.request.http.host = HOST
        with grpc.secure_channel(self.target, credentials) as channel:
            call = channel.unary_unary(
                "/envoy.service.auth.v3.Authorization/Check",
                request_serializer=pb.CheckRequest.SerializeToString,
                response_deserializer=pb.CheckResponse.FromString,
            )
            try:
                answer = call(message, timeout=TIMEOUT_SECONDS)
            except grpc.RpcError as error:
                return error.code()
        assert answer.ok_response.headers
        return grpc.StatusCode.OK

    @property
    def target(self) -> str:
        return f"localhost:{self.sidecar.ext_authz.rpartition(':')[2]}"

    def serial(self, client: LeafCertificate) -> str:
        """The serial number of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        context.load_cert_chain(client.certificate, client.key)
        context.set_alpn_protocols(["h2"])
        host, _, port = self.sidecar.ext_authz.rpartition(":")
        with (
            socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            certificate = tls.getpeercert()
        assert certificate
        return str(certificate["serialNumber"])


@pytest.fixture(scope="module")
def guarded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("mtls")
    authority = make_authority(directory / "authority")
    found = Guarded(None, directory, authority)  # type: ignore[arg-type]
    found.use(authority.issue("localhost", file_name="first"))
    shutil.copy(authority.certificate, directory / "clients.pem")
    flags = [
        f"--tls-certificate={directory}/server.pem",
        f"--tls-key={directory}/server-key.pem",
        f"--tls-client-ca={directory}/clients.pem",
        "--allowed-clients=envoy.test,spare.test",
    ]
    config = world.config(rules=["{match: '*.cold.localhost'}"])
    with world.sidecar(directory / "serve", *flags, config=config, command="serve") as sidecar:
        found.sidecar = sidecar
        yield found


@pytest.fixture(scope="module")
def client(guarded: Guarded) -> LeafCertificate:
    return guarded.authority.issue("envoy.test")


def test_an_envoy_with_an_allowed_certificate_gets_tokens(
    world: World, guarded: Guarded, client: LeafCertificate, tmp_path: Path
) -> None:
    upstream = (world.capture.address, CAPTURE, world.authority.certificate)
    ca_file = guarded.authority.certificate
    target = guarded.sidecar.ext_authz
    before = len(world.capture.requests)
    with ForeignEnvoy(
        tmp_path, target, upstream, {"/": {}}, ca_file=ca_file, client=client
    ) as envoy:
        assert send(envoy.forward, request_bytes("GET", "/", HOST)).status == 200
    claims = claims_of(world, world.capture.wait_for(before + 1))
    assert claims["aud"] == f"https://{HOST}"


def test_an_envoy_without_a_certificate_gets_none_and_forwards_nothing(
    world: World, guarded: Guarded, tmp_path: Path
) -> None:
    upstream = (world.capture.address, CAPTURE, world.authority.certificate)
    ca_file = guarded.authority.certificate
    before = len(world.capture.requests)
    with ForeignEnvoy(
        tmp_path, guarded.sidecar.ext_authz, upstream, {"/": {}}, ca_file=ca_file
    ) as envoy:
        assert send(envoy.forward, request_bytes("GET", "/", HOST)).status in (403, 503)
    assert len(world.capture.requests) == before


def test_only_listed_names_may_ask(guarded: Guarded, client: LeafCertificate) -> None:
    issue = guarded.authority.issue
    assert guarded.check(client) is grpc.StatusCode.OK
    assert guarded.check(issue("other.test", "spare.test")) is grpc.StatusCode.OK
    assert guarded.check(issue("evil.test")) is grpc.StatusCode.PERMISSION_DENIED


def test_a_certificate_of_another_ca_or_none_gets_no_connection(
    guarded: Guarded, tmp_path: Path
) -> None:
    stranger = make_authority(tmp_path / "stranger").issue("envoy.test")
    assert guarded.check(stranger) is grpc.StatusCode.UNAVAILABLE
    assert guarded.check(None) is grpc.StatusCode.UNAVAILABLE


def test_a_plain_connection_is_not_answered(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.sidecar.ext_authz) as channel:
        call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=TIMEOUT_SECONDS)
    assert caught.value.code() in (  # type: ignore[attr-defined]
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )


def test_a_renewed_certificate_is_used_without_a_restart(
    guarded: Guarded, client: LeafCertificate
) -> None:
    before = guarded.serial(client)
    guarded.use(guarded.authority.issue("localhost", file_name="second"))
    until(lambda: guarded.serial(client) != before, SEEN_SECONDS, "the new certificate is shown")
    assert guarded.check(client) is grpc.StatusCode.OK


def test_a_broken_renewal_leaves_the_old_certificate_in_use(
    guarded: Guarded, client: LeafCertificate
) -> None:
    before = guarded.serial(client)
    (guarded.directory / "server-key.pem").write_bytes(b"half a ke")
    for _ in range(3):
        assert guarded.serial(client) == before
    assert "a TLS file holds no PEM" in guarded.sidecar.stderr()
    guarded.use(guarded.authority.issue("localhost", file_name="third"))
    until(lambda: guarded.serial(client) != before, SEEN_SECONDS, "the mended one is shown")


def test_a_rotated_client_ca_counts_without_a_restart(
    guarded: Guarded, client: LeafCertificate, tmp_path: Path
) -> None:
    other = make_authority(tmp_path / "other")
    newcomer = other.issue("envoy.test")
    assert guarded.check(newcomer) is grpc.StatusCode.UNAVAILABLE
    bundle = guarded.directory / "clients.new"
    old = guarded.authority.certificate.read_bytes()
    bundle.write_bytes(old + other.certificate.read_bytes())
    bundle.replace(guarded.directory / "clients.pem")
    until(lambda: guarded.check(newcomer) is grpc.StatusCode.OK, SEEN_SECONDS, "the new CA counts")
    assert guarded.check(client) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--listen=0.0.0.0:0"], "mTLS"),
        (["--tls-key=k"], "all three"),
        (["--allowed-clients=a"], "all three"),
    ],
)
def test_half_a_protection_is_wrong_usage(flags: list[str], part: str, tmp_path: Path) -> None:
    done = run_command("serve", "--status-port=0", *flags, home=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_that_cannot_be_used_end_the_start_in_one_sentence(tmp_path: Path) -> None:
    flags = [f"--tls-{name}={tmp_path}/none" for name in ("certificate", "key", "client-ca")]
    done = run_command("serve", "--listen=127.0.0.1:0", "--status-port=0", *flags, home=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--tls-certificate" in done.stderr
