"""The doctor with a network and a credential that answer as a test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ext_authz.clock import Now
from ext_authz.destination import Destination
from ext_authz.doctor import Doctor, Finding
from ext_authz.errors import SourceError
from ext_authz.probe import Answer
from ext_authz.rules import Header, Rule
from ext_authz.settings import MetadataCredential, NamedCredential, Settings
from ext_authz.tokens import Fetched
from tests.unit.fakes import START, FakeClock, token_text

ROBOT = "robot@p.iam.gserviceaccount.com"
HOST = "svc-123456.europe-west1.run.app"
TOKEN_HEADERS = {header.value for header in Header}
SETTINGS = Settings(
    credentials={name: NamedCredential(name, MetadataCredential()) for name in ("default", "s")},
    rules=(
        Rule("*.run.app", "default"),
        Rule("api.example.com:8443", "default", audience="custom", header=Header.PROXY),
        Rule("static.example.com", "s", audience=None),
        Rule("f.cloudfunctions.net", "default", audience="https://{host}{path}"),
    ),
)


@dataclass
class Place:
    """What the network answers, and what it was asked."""

    without: Answer = field(default_factory=lambda: Answer(403))
    with_token: Answer = field(default_factory=lambda: Answer(200))
    through: Answer = field(default_factory=lambda: Answer(200))
    wrong: str = ""
    asked: list[tuple[Destination, str, Mapping[str, str]]] = field(default_factory=list)

    def resolve(self, destination: Destination, *, allow_loopback: bool) -> tuple[list[str], str]:
        return ([] if self.wrong else ["192.0.2.1"]), self.wrong

    def ask(
        self, destination: Destination, address: str, headers: Mapping[str, str], ca: Path | None
    ) -> Answer:
        self.asked.append((destination, address, headers))
        return self.with_token if TOKEN_HEADERS & set(headers) else self.without

    def ask_through(self, proxy: str, destination: Destination) -> Answer:
        self.asked.append((destination, proxy, {}))
        return self.through


class FakeSource:
    kind = "metadata"
    found = "the metadata server at m"
    note = ""

    def __init__(self, error: SourceError | None = None, **claims: Any) -> None:
        self.error, self.claims = error, claims or {"email": ROBOT}
        self.asked: list[str] = []

    def fetch(self, audience: str) -> Fetched:
        self.asked.append(audience)
        if self.error:
            raise self.error
        if not audience:
            return Fetched("opaque", recheck_seconds=60)
        return Fetched(token_text(FakeClock(), 3000, audience, **self.claims))


def examine(
    target: str = HOST,
    *,
    source: FakeSource | None = None,
    sidecar: str = "",
    settings: Settings = SETTINGS,
) -> Finding:
    source = source or FakeSource()
    doctor = Doctor(settings, {"default": source, "s": source}, Now(START, 0.0))
    return doctor.examine(target, sidecar)
