"""Builds the Go programs of the tests, once per machine and source."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

BUILD_SECONDS = 300
SUFFIXES = (".go", ".mod", ".sum")


def build(go: str, sources: Path, cache: Path) -> Path:
    """Give the program built from a directory of sources; skips the test if it cannot be built."""
    files = sorted(path for path in sources.iterdir() if path.suffix in SUFFIXES)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    target = cache / f"{sources.name}-{digest}"
    target.mkdir(parents=True, exist_ok=True)
    program = target / sources.name
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():
            return program
        for file in files:
            shutil.copy(file, target)
        command = [go, "build", "-buildvcs=false", "-o", "new", "."]
        done = subprocess.run(
            command, cwd=target, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"go build failed: {done.stderr.strip().splitlines()[-1:]}")
        return (target / "new").replace(program)
