"""A program that behaves as the gcloud command does, told by a JSON file beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
#!{python}
import json, pathlib, sys, time
beside = pathlib.Path(__file__).with_name("gcloud.json")
told = json.loads(beside.read_text())
asked = [word for word in sys.argv[1:] if word != "--quiet"]
with pathlib.Path(__file__).with_name("gcloud.log").open("a") as log:
    log.write(json.dumps(asked) + "\\n")
print("Your login is about to expire: {secret}", file=sys.stderr)
for start, answer in told.items():
    if " ".join(asked).startswith(start):
        time.sleep(answer.get("sleep", 0))
        sys.stdout.write(answer.get("says", ""))
        raise SystemExit(answer.get("status", 0))
raise SystemExit(2)
"""


class FakeGcloud:
    """Writes the program into `directory`, which belongs on PATH."""

    def __init__(self, directory: Path, secret: str = "") -> None:
        self.program = directory / "gcloud"
        self._told: dict[str, dict[str, Any]] = {}
        self.program.write_text(_PROGRAM.format(python=sys.executable, secret=secret))
        self.program.chmod(0o755)
        self.logged_in("person@example.com")

    def logged_in(self, account: str | None, impersonates: str | None = None) -> None:
        """Answer `config list` with this account, or with none."""
        config: dict[str, Any] = {"core": {"account": account} if account else {}}
        if impersonates:
            config["auth"] = {"impersonate_service_account": impersonates}
        self.answers("config list --format=json", json.dumps(config))

    def answers(self, start: str, says: str, *, status: int = 0, sleep: float = 0) -> None:
        """Answer commands that begin so."""
        self._told[start] = {"says": says, "status": status, "sleep": sleep}
        self.program.with_name("gcloud.json").write_text(json.dumps(self._told))

    def asked(self) -> list[list[str]]:
        """The arguments of each call, without --quiet."""
        log = self.program.with_name("gcloud.log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
