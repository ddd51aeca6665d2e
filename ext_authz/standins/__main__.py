"""Runs one stand-in per process, for docker-compose: google, receiver, sender, certificates."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from ext_authz.standins.certificates import AUTHORITY_CERTIFICATE, LeafCertificate, make_authority
from ext_authz.standins.google import GoogleStandIn
from ext_authz.standins.issuer import Issuer, SigningKey
from ext_authz.standins.private_service import MissingExtraError, PrivateService
from ext_authz.standins.sender import tell_the_story

LEAF_NAME = "receiver"
_FILES_WAIT_SECONDS = 30


def main(arguments: list[str] | None = None) -> int:
    """Run one stand-in until SIGTERM; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (MissingExtraError, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ext_authz.standins", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    google = commands.add_parser("google", help="Google's token issuers")
    _add_listen(google, port=8080)
    google.add_argument("--public-url", help="base URL that credential files name")
    google.add_argument("--key-file", type=Path, help="signing key, made when absent")
    google.add_argument("--email", help="the instance's default service account")
    google.set_defaults(run=_google)

    certificates = commands.add_parser("certificates", help="write a CA and a leaf certificate")
    certificates.add_argument("--directory", type=Path, required=True)
    certificates.add_argument("names", nargs="+", help="DNS names and addresses of the receiver")
    certificates.set_defaults(run=_certificates)

    receiver = commands.add_parser("receiver", help="a private service that verifies tokens")
    _add_listen(receiver, port=8443)
    receiver.add_argument("--jwks-url", required=True, help="where Google's keys are")
    receiver.add_argument("--audience", action="append", required=True)
    receiver.add_argument("--invoker", action="append", help="e-mail with the invoker role")
    receiver.add_argument("--certificates", type=Path, required=True, help="directory")
    receiver.set_defaults(run=_receiver)

    sender = commands.add_parser("sender", help="the app: refused directly, greeted by HTTP_PROXY")
    sender.add_argument("url", help="http:// URL for the proxy")
    sender.add_argument("--direct-url", help="default: the same with https://")
    sender.add_argument("--ca-file", type=Path, help="authority of the direct URL")
    sender.add_argument("--wait-seconds", type=float, default=60)
    sender.set_defaults(run=_sender)
    return parser


def _add_listen(parser: argparse.ArgumentParser, *, port: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=port, help="default: %(default)s")


def _google(options: argparse.Namespace) -> int:
    key = _persisted_key(options.key_file) if options.key_file else None
    google = GoogleStandIn(
        Issuer(key=key),
        host=options.host,
        port=options.port,
        public_url=options.public_url,
    )
    if options.email:
        google.metadata.email = options.email
    stopped = _stop_signal()
    with google:
        print(f"google: token issuers on {google.url}, keys at {google.jwks_url}", flush=True)
        stopped.wait()
    return 0


def _persisted_key(path: Path) -> SigningKey:
    """Read the key, or make it with mode 0600."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(SigningKey.generate().private_pem)
    return SigningKey.from_pem(path.read_text(encoding="ascii"))


def _certificates(options: argparse.Namespace) -> int:
    leaf = _leaf(options.directory)
    if leaf.key.exists() and leaf.certificate.exists():
        print(f"certificates: kept those in {options.directory}", flush=True)
        return 0
    make_authority(options.directory).issue(*options.names, file_name=LEAF_NAME)
    print(f"certificates: wrote {options.directory / AUTHORITY_CERTIFICATE}", flush=True)
    return 0


def _leaf(directory: Path) -> LeafCertificate:
    return LeafCertificate(directory / f"{LEAF_NAME}.pem", directory / f"{LEAF_NAME}-key.pem")


def _receiver(options: argparse.Namespace) -> int:
    leaf = _leaf(options.certificates)
    stopped = _stop_signal()
    deadline = time.monotonic() + _FILES_WAIT_SECONDS
    while not leaf.key.exists() and time.monotonic() < deadline:
        if stopped.wait(0.2):
            return 0
    service = PrivateService(
        options.jwks_url,
        options.audience,
        leaf,
        invokers=options.invoker,
        host=options.host,
        port=options.port,
    )
    with service:
        print(f"receiver: private service on {service.url}", flush=True)
        stopped.wait()
    return 0


def _sender(options: argparse.Namespace) -> int:
    # A container's first process gets no default action for signals.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    direct_url = options.direct_url or options.url.replace("http://", "https://", 1)
    told = tell_the_story(
        options.url,
        direct_url=direct_url,
        authority_file=options.ca_file,
        wait_seconds=options.wait_seconds,
    )
    return 0 if told else 1


def _stop_signal() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopped


if __name__ == "__main__":
    sys.exit(main())
