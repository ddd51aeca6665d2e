"""Stands in for a private gRPC service on Cloud Run: an echo for callers whose token verifies."""
# ruff: noqa: S104, S108, T201, RUF100 - prints, and listens in its container

import signal
import threading
from pathlib import Path

from ext_authz.standins.certificates import LeafCertificate
from ext_authz.standins.grpc_service import GrpcService

stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
keys = Path("/tmp/keys")
service = GrpcService(
    "http://google:8080/oauth2/v3/certs",
    {"https://echo-abc123-ew.a.run.app"},
    LeafCertificate(keys / "receiver.pem", keys / "receiver-key.pem"),
    host="0.0.0.0",
    port=443,
)
with service:
    stopped.wait()
