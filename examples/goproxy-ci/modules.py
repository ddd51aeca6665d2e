"""Stands in for a private Athens: one Go module, for callers whose token verifies."""
# ruff: noqa: S104, S108, T201, RUF100 - prints, and listens in its container

import io
import signal
import threading
import zipfile
from pathlib import Path
from typing import Any

from ext_authz.standins.certificates import LeafCertificate
from ext_authz.standins.private_app import answer
from ext_authz.standins.private_service import PrivateService

MODULE, VERSION = "example.com/private/greet", "v1.2.3"
FILES = {
    "go.mod": f"module {MODULE}\n\ngo 1.21\n",
    "greet.go": 'package greet\n\nfunc Hello() string { return "Hello from a private module!" }\n',
}


def archive() -> bytes:
    """Return the module's zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as found:
        for name, text in FILES.items():
            found.writestr(f"{MODULE}@{VERSION}/{name}", text)
    return buffer.getvalue()


STEM = f"/{MODULE}/@v/{VERSION}"
ANSWERS = {
    f"/{MODULE}/@v/list": VERSION.encode(),
    f"{STEM}.info": f'{{"Version": "{VERSION}", "Time": "2026-01-02T03:04:05Z"}}'.encode(),
    f"{STEM}.mod": FILES["go.mod"].encode(),
    f"{STEM}.zip": archive(),
}


async def modules(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request of the GOPROXY protocol."""
    body = ANSWERS.get(scope["path"])
    print(f"athens: {200 if body else 404} {scope['path']}", flush=True)
    if body is None:
        await answer(send, 404, "not found\n", [])
        return
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
keys = Path("/tmp/keys")
service = PrivateService(
    "http://google:8080/oauth2/v3/certs",
    {"https://athens-abc123-ew.a.run.app"},
    LeafCertificate(keys / "receiver.pem", keys / "receiver-key.pem"),
    app=modules,
    host="0.0.0.0",
    port=443,
)
with service:
    stopped.wait()
