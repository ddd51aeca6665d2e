"""Everything around the contenders: certificates, Google's stand-in, the upstream, the Go tools."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import envoy_configs
from bench.envoy import Envoy
from ext_authz.standins.certificates import make_authority
from ext_authz.standins.google import GoogleStandIn

DOMAIN = "bench.localhost"  # resolves to loopback without any DNS server (RFC 6761)
_HERE = Path(__file__).parent


class MissingToolError(Exception):
    """A program that the benchmark needs is not installed; the text says how to get it."""


@dataclass
class Stage:
    """Built once for all contenders; a context manager."""

    directory: Path
    google: GoogleStandIn = field(init=False)
    upstream: Envoy = field(init=False)
    spare: Envoy = field(init=False)
    ca_file: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make files and programs; servers start with the context."""
        if not shutil.which("h2load"):
            raise MissingToolError("h2load is missing: apt-get install nghttp2-client")
        self._stack = contextlib.ExitStack()
        self.directory.mkdir(parents=True, exist_ok=True)
        authority = make_authority(self.directory / "ca")
        self.ca_file = authority.certificate
        leaf = authority.issue(f"*.{DOMAIN}", "127.0.0.1", file_name="upstream")
        self.google = GoogleStandIn()
        config = envoy_configs.upstream(leaf.certificate, leaf.key)
        self.upstream = Envoy(self.directory, "upstream", config)
        self.spare = Envoy(self.directory, "spare", config)
        self.goload = _built("goload", self.directory)
        self.goproxy = _built("goproxy", self.directory)

    @property
    def port(self) -> int:
        """Where the upstream listens."""
        return int(self.upstream.address.rpartition(":")[2])

    @property
    def spare_hosts(self) -> str:
        """The same on another upstream, for 10,000 connections more than one process may have."""
        return f"d%05d.{DOMAIN}:{self.spare.address.rpartition(':')[2]}"

    @property
    def hosts(self) -> str:
        """A destination with one %d verb for its number."""
        return f"d%05d.{DOMAIN}:{self.port}"

    @property
    def token(self) -> str:
        """A token as long as the real ones."""
        return self.google.issuer.mint(f"https://d00000.{DOMAIN}")

    def __enter__(self) -> Self:
        self._stack.enter_context(self.google)
        self._stack.enter_context(self.upstream)
        self._stack.enter_context(self.spare)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def _built(name: str, directory: Path) -> Path:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not os.access(go, os.X_OK):
        raise MissingToolError("go is missing: install Go 1.24 or later")
    target = directory / name
    subprocess.run([go, "build", "-o", str(target), "."], cwd=_HERE / name, check=True)
    return target
