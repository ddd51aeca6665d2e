"""`idtoken-sidecar demo`: the whole story on one machine."""

from __future__ import annotations

import time
from pathlib import Path

from ext_authz.standins.private_app import HELLO
from tests.support.polling import elapsed
from tests.support.sidecar import run_command

DEMO_SECONDS = 15.0


def test_demo_tells_the_story(tmp_path: Path) -> None:
    """Refused, greeted twice, the verified claims; soon, and without a token on the screen."""
    started = time.monotonic()
    done = run_command("demo", home=tmp_path)
    assert elapsed(started) < DEMO_SECONDS
    assert (done.returncode, done.stderr) == (0, "")
    assert "403" in done.stdout
    assert done.stdout.count(HELLO) >= 2
    assert '"aud": "https://' in done.stdout
    assert "eyJ" not in done.stdout


def test_demo_ignores_the_credentials_of_the_machine(tmp_path: Path) -> None:
    """A key that somebody has set, or a proxy, changes nothing."""
    environ = {
        "GOOGLE_APPLICATION_CREDENTIALS": "/no/such/key.json",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "UPSTREAM_URL": "https://other.example",
    }
    done = run_command("demo", home=tmp_path, environ=environ)
    assert done.returncode == 0, done.stderr
