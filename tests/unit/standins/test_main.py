"""The containers' commands: certificates are kept, the sender's exit status says success."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from ext_authz.standins.__main__ import main
from ext_authz.standins.certificates import Authority, LeafCertificate
from ext_authz.standins.faults import Fault
from ext_authz.standins.issuer import Issuer, SigningKey
from ext_authz.standins.messages import Request, Response, text_response
from ext_authz.standins.private_service import PrivateService
from ext_authz.standins.recording_server import RecordingServer
from tests.unit.standins.conftest import AUDIENCE, bearer, fetch


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_certificates_are_written_once(tmp_path: Path) -> None:
    """A second start keeps them, so that a running receiver and its clients agree."""
    arguments = ["certificates", "--directory", str(tmp_path), "receiver", "127.0.0.1"]
    assert main(arguments) == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {"ca.pem", "ca-key.pem", "receiver.pem", "receiver-key.pem"}
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_google_and_receiver_run_and_end_on_sigterm(
    tmp_path: Path, authority: Authority, leaf: LeafCertificate, keys: tuple[SigningKey, SigningKey]
) -> None:
    """Two processes, one key file: the receiver verifies what google mints."""
    (tmp_path / "google-key.pem").write_text(keys[0].private_pem)
    for name, source in (("receiver.pem", leaf.certificate), ("receiver-key.pem", leaf.key)):
        (tmp_path / name).write_bytes(source.read_bytes())
    google_port, receiver_port = free_port(), free_port()
    google_url = f"http://127.0.0.1:{google_port}"
    command = [sys.executable, "-m", "ext_authz.standins"]
    google = ["google", "--port", str(google_port), "--key-file", str(tmp_path / "google-key.pem")]
    receiver = ["receiver", "--port", str(receiver_port), "--certificates", str(tmp_path)]
    receiver += ["--jwks-url", f"{google_url}/oauth2/v3/certs", "--audience", AUDIENCE]
    processes = [
        subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        for arguments in (google, receiver)
    ]
    try:
        lines = [process.stdout.readline() for process in processes if process.stdout]
        assert [line.partition(":")[0] for line in lines] == ["google", "receiver"]
        identity = "/computeMetadata/v1/instance/service-accounts/default/identity"
        flavor = {"Metadata-Flavor": "Google"}
        token = fetch(f"{google_url}{identity}?audience={AUDIENCE}", headers=flavor).text
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        answer = fetch(f"https://127.0.0.1:{receiver_port}", headers=bearer(token), context=trust)
        assert answer.status == 200
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        statuses = [process.wait(5) for process in processes]
        for process in processes:
            if process.stdout:
                process.stdout.close()
    assert statuses == [0, 0]


def greeting_proxy(request: Request, fault: Fault) -> Response:
    """Answer as a sidecar would for the one host that it knows."""
    del fault
    known = request.header("Host") == "receiver.example"
    return text_response(200 if known else 502, "Hello from the receiving service!\n")


@pytest.mark.parametrize(("host", "status"), [("receiver.example", 0), ("other.example", 1)])
def test_the_sender_succeeds_only_if_refused_and_then_greeted(
    issuer: Issuer,
    authority: Authority,
    leaf: LeafCertificate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    status: int,
) -> None:
    """It prints Google's refusal, then the greeting; its exit status says whether both came."""
    previous = signal.getsignal(signal.SIGTERM)
    with (
        PrivateService(issuer, [AUDIENCE], leaf) as service,
        RecordingServer(greeting_proxy, lambda method, path: "proxy") as proxy,
    ):
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        arguments = ["sender", f"http://{host}/", "--direct-url", service.url + "/"]
        arguments += ["--ca-file", str(authority.certificate), "--wait-seconds", "0"]
        assert main(arguments) == status
    signal.signal(signal.SIGTERM, previous)
    out = capsys.readouterr().out
    assert "403 Your client does not have permission to get URL / from this server." in out
    assert ("200 Hello from the receiving service!" in out) == (status == 0)


def test_missing_files_are_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A directory that cannot be made ends with 1 and no traceback."""
    (tmp_path / "file").write_text("")
    assert main(["certificates", "--directory", str(tmp_path / "file" / "x"), "a.example"]) == 1
    assert "Traceback" not in capsys.readouterr().err
