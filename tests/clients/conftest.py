"""What tests with real programs share: finding them, running them, and bodies to send."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.messages import big_body
from tests.support.sidecar import clean_environment

RUN_SECONDS = 60
CACHE_VARIABLE = "IDTOKEN_SIDECAR_TEST_CACHE"

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def find_program(name: str) -> str:
    """The path of a program, or skip the test with the reason."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def cache_directory(name: str) -> Path:
    """A place that survives the run, so that packages are fetched once per machine."""
    root = os.environ.get(CACHE_VARIABLE) or Path(__file__).parents[2] / ".cache"
    return Path(root) / name


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a program in a clean environment and gives its output."""

    def run_program(
        *command: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            env=clean_environment(tmp_path, environ),
            cwd=cwd or tmp_path,
            capture_output=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    return run_program


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 10 MB."""
    file = tmp_path_factory.mktemp("bodies") / "big"
    file.write_bytes(big_body())
    return file
