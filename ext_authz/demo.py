"""The whole story on this machine: refused without the sidecar, greeted with it; no cloud."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ext_authz.config import environment
from ext_authz.errors import StartError
from ext_authz.standins.certificates import Authority, make_authority
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.private_service import MissingExtraError, PrivateService
from ext_authz.standins.sender import Answer, first_sentence, get

HOST = "receiver.localhost"  # Envoy resolves it to loopback without any DNS server
_READY_SECONDS = 20.0

_CONFIG = """\
destinations:
  - match: "{host}:{port}"        # in the cloud: "*.run.app", which needs no file at all
upstream:
  ca_file: {ca_file}
  allow_loopback: true            # the private service of this demo is on this machine
"""


def demo() -> int:
    """Tell the story; return the exit status. Raises StartError if a part cannot start."""
    try:
        with tempfile.TemporaryDirectory(prefix="idtoken-sidecar-demo-") as directory:
            return _stage(Path(directory))
    except MissingExtraError as error:
        raise StartError(str(error)) from None


def _stage(directory: Path) -> int:
    authority = make_authority(directory / "ca")
    certificate = authority.issue("receiver", HOST, "127.0.0.1")
    with (
        GoogleStandIn() as google,
        PrivateService(google.issuer, {f"https://{HOST}"}, certificate) as receiver,
    ):
        print("Stand-ins on this machine:")
        print(f"  Google's token issuers at {google.url} (metadata server, keys)")
        print(f"  a private service at https://{HOST}:{receiver.port}, which verifies every token")
        config = directory / "sidecar.yaml"
        ca_file = authority.certificate
        config.write_text(_CONFIG.format(host=HOST, port=receiver.port, ca_file=ca_file))
        url = f"https://{HOST}:{receiver.port}"
        with _sidecar(config, url, google.environment(), directory) as addresses:
            return _tell(authority, receiver, addresses)


def _tell(authority: Authority, receiver: PrivateService, addresses: Mapping[str, str]) -> int:
    direct, forward = _opener(authority), _opener(authority, f"http://{addresses['forward']}")
    plain = f"http://{HOST}:{receiver.port}"
    reverse = f"http://{addresses['reverse']}"
    print("\n1. The sender calls the receiver itself, knowing nothing of tokens:")
    refusal = _show(f"https://127.0.0.1:{receiver.port}/", direct)
    print(f"\n2. The same sender with HTTP_PROXY=http://{addresses['forward']}:")
    forwarded = _show(f"{plain}/", forward)
    print(f"\n3. The same through the reverse proxy, as GOPROXY={reverse} would use it:")
    reversed_ = _show(f"{reverse}/", direct)
    print("\n4. The claims that the receiver verified:")
    claims = get(forward, f"{plain}/claims")
    print(_indented(claims.text))
    told = refusal.status == 403 and forwarded.status == reversed_.status == claims.status == 200
    print("\nThe sender's code did not change." if told else "\nThat is not how it should go.")
    return 0 if told else 1


def _show(url: str, opener: urllib.request.OpenerDirector) -> Answer:
    answer = get(opener, url)
    print(f"  GET {url}\n  {answer.status} {first_sentence(answer.text)}")
    return answer


def _opener(authority: Authority, proxy: str = "") -> urllib.request.OpenerDirector:
    import ssl

    context = ssl.create_default_context(cafile=str(authority.certificate))
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": proxy} if proxy else {}),
        urllib.request.HTTPSHandler(context=context),
    )


def _indented(text: str) -> str:
    with suppress(ValueError):
        text = json.dumps(json.loads(text), indent=2)
    return "\n".join(f"  {line}" for line in text.splitlines())


@contextmanager
def _sidecar(
    config: Path, upstream: str, environ: Mapping[str, str], directory: Path
) -> Iterator[Mapping[str, str]]:
    """Run the real command, as a user would, on free ports."""
    ready_file, log_file = directory / "ready.json", directory / "sidecar.log"
    command = [sys.executable, "-m", "ext_authz", "run", f"--config={config}"]
    command += [f"--upstream={upstream}", f"--ready-file={ready_file}", "--listen=127.0.0.1:0"]
    command += [f"--{name}-port=0" for name in ("forward", "reverse", "admin", "status")]
    inherited = {k: v for k, v in environment().items() if k != "GOOGLE_APPLICATION_CREDENTIALS"}
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, env={**inherited, **environ}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _addresses(process, ready_file, log_file)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _addresses(
    process: subprocess.Popen[bytes], ready_file: Path, log_file: Path
) -> Mapping[str, str]:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready_file.is_file():
            found: Mapping[str, str] = json.loads(ready_file.read_text())
            return found
        time.sleep(0.05)
    last = log_file.read_text().strip().rpartition("\n")[2]
    raise StartError(f"demo: the sidecar did not start: {last.removeprefix('idtoken-sidecar: ')}")
